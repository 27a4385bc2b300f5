"""The threads of a run are those of torch and of our encoders."""

import torch
from threadpoolctl import threadpool_info

from featherweight.processors import taken_processors, usable_processors
from featherweight.workspace import pinned


def test_a_run_says_how_many_threads_share_its_work():
    assert taken_processors() == usable_processors()
    with pinned(3):
        assert taken_processors() == torch.get_num_threads() == 3
        with pinned(1):
            assert taken_processors() == 1
        assert taken_processors() == 3
    assert taken_processors() == usable_processors()


def test_products_of_numpy_take_one_thread_in_a_run():
    with pinned(2):
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} <= {1}
