"""What algorithms share: pure functions on arrays and tensors, nets, evaluation and logging."""
