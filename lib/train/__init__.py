"""What is trained: the nano suite and alternative heads."""
