"""What became of each slot: the books, the rules over them, and the thread that keeps them."""
