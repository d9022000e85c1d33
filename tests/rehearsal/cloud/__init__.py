"""The rehearsal cloud: a small EC2 of real parts on one Linux machine. ../control.py starts it."""
