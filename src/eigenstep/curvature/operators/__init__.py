"""What can be multiplied by a vector: a model's Hessian or Gauss-Newton matrix, as an optimizer sees it, or yours."""
