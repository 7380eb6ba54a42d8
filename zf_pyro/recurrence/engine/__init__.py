"""The fast time loops as programs of instructions, and the machines that run them."""
