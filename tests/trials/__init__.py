"""The promises of docs/guarantees.md, tried by the thousand: a tier of every recipe in CI, the rest in a long run."""
