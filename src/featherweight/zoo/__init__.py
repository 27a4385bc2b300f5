"""The zoo: published networks as plain modules, and named tasks around them."""
