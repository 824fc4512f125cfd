"""One optimizer step as the training loop makes it."""

from torch import Tensor

from nano_hindi.optim import TrainOptimizer


def take_step(optimizer: TrainOptimizer, lr_scale: float | Tensor = 1.0, grad_divisor: float = 1.0) -> Tensor:
    """Reduce the gradients, clip and step. Returns the norm before clipping, 0-d."""
    optimizer.reduce_gradients()
    norm, grad_scale = optimizer.grad_norm_and_scale(grad_divisor)
    optimizer.step(lr_scale, grad_scale)
    return norm
