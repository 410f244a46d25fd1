"""To a minimum in float64: SciPy's L-BFGS from the start, then Newton's method with the exact Hessian."""

import torch
from torch import Tensor

from eigenstep.errors import EigenstepError
from eigenstep.problems.base import Problem

GRADIENT_NORM = 1e-8  # promised of every minimum; Newton's last step goes well below it


def minimise(problem: Problem) -> Tensor:
    """Return a minimum (n,): gradient norm at most 1e-8, Hessian positive semi-definite to rounding.

    Newton's step divides by |lambda|, so that it leaves saddles, and is halved until the loss falls; close by, where
    rounding hides a fall, until the gradient does.

    Raises EigenstepError when the two are not met after 50 Newton steps.
    """
    from scipy.optimize import minimize

    def loss_and_gradient(x: object) -> tuple[float, object]:
        loss, gradient = problem.loss_and_gradient(torch.as_tensor(x, dtype=torch.float64))
        return float(loss), gradient.numpy()

    options = {"maxiter": 20_000, "maxfun": 40_000, "gtol": 1e-5, "ftol": 1e-13, "maxcor": 30}
    found = minimize(loss_and_gradient, problem.start.numpy(), jac=True, method="L-BFGS-B", options=options)
    x = torch.as_tensor(found.x, dtype=torch.float64)
    for _ in range(50):
        loss, gradient = problem.loss_and_gradient(x)
        values, vectors = torch.linalg.eigh(problem.hessian(x))
        tiny = 1e-12 * float(values.abs().max())
        if float(gradient.norm()) <= GRADIENT_NORM / 100 and float(values.min()) >= -tiny:
            return x
        step = vectors @ ((vectors.T @ gradient) / values.abs().clamp(min=tiny))
        for halvings in range(30):
            trial = x - step / 2**halvings
            new_loss, new_gradient = problem.loss_and_gradient(trial)
            if new_loss < loss - 1e-13 * loss.abs() or new_gradient.norm() < gradient.norm() / 2:
                break
        else:
            break
        x = trial
    gradient, least = problem.gradient(x), float(torch.linalg.eigvalsh(problem.hessian(x)).min())
    if float(gradient.norm()) <= GRADIENT_NORM and least >= -tiny:
        return x
    raise EigenstepError(
        f"{problem.name}: no minimum found from its start (gradient norm {float(gradient.norm()):.1e}, smallest "
        f"eigenvalue {least:.1e}); begin elsewhere"
    )
