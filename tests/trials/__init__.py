"""The promises of docs/guarantees.md, each tried by the thousand: a tier of every recipe in CI, the rest in a long run."""
