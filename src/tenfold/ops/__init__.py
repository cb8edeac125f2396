"""The op set: signatures, the tensors it works on, and its backends; imports core."""
