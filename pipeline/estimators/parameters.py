"""The check of an estimator's parameters."""

from numbers import Integral
from typing import Any

from sklearn.utils._param_validation import Interval, InvalidParameterError

from pipeline.core.errors import RequestError

POSITIVE = Interval(Integral, 1, None, closed="left")


def check_parameters(estimator: Any) -> None:
    """Check the parameters of an estimator as scikit-learn does.

    Raises:
        RequestError: A parameter has the wrong type, or is out of range.
    """
    try:
        estimator._validate_params()
    except InvalidParameterError as error:
        raise RequestError(str(error)) from error
