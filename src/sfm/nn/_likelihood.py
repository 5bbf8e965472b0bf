"""Likelihoods of counts, in log space throughout so that no rate, however small, leaves the range of float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def negative_binomial_log_likelihood(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """Log-probability of counts under a negative binomial distribution.

    The variance is `mean + mean**2 / dispersion`: a large dispersion parameter brings the distribution close to Poisson.

    Parameters
    ----------
    counts
        Counts, zero or more.
    log_mean
        Natural logarithm of the mean, same shape.
    log_dispersion
        Natural logarithm of the inverse overdispersion, same shape.

    Returns
    -------
    Log-probabilities in nats, same shape.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import negative_binomial_log_likelihood
    >>> negative_binomial_log_likelihood(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)).exp()
    tensor(0.5000)
    """
    dispersion = log_dispersion.exp()
    log_total = torch.logaddexp(log_mean, log_dispersion)
    choose = torch.lgamma(counts + dispersion) - torch.lgamma(dispersion) - torch.lgamma(counts + 1)
    return choose + dispersion * (log_dispersion - log_total) + counts * (log_mean - log_total)


def zero_inflated_log_likelihood(
    counts: Tensor, log_mean: Tensor, log_dispersion: Tensor, zero_logits: Tensor
) -> Tensor:
    """Log-probability of counts under a negative binomial distribution with additional zeros.

    Parameters
    ----------
    counts
        Counts, zero or more.
    log_mean
        Natural logarithm of the mean of the negative binomial part, same shape.
    log_dispersion
        Natural logarithm of its inverse overdispersion, same shape.
    zero_logits
        Log-odds of an additional zero, same shape.

    Returns
    -------
    Log-probabilities in nats, same shape.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import zero_inflated_log_likelihood
    >>> zero = torch.tensor(0.0)
    >>> zero_inflated_log_likelihood(zero, zero, zero, zero).exp()
    tensor(0.7500)
    """
    counted = F.logsigmoid(-zero_logits) + negative_binomial_log_likelihood(counts, log_mean, log_dispersion)
    return torch.where(counts == 0, torch.logaddexp(F.logsigmoid(zero_logits), counted), counted)
