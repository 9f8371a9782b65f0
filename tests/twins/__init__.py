"""In-memory twins of the seams, honest to the contract, for tests of what is built upon them."""
