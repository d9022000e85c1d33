"""Who may do what: the policies of callers, and the program that judges by them."""
