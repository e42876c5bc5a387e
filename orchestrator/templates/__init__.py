"""Specs to start from, and the files that go with some of them; `pruneyard init --template NAME` writes them."""
