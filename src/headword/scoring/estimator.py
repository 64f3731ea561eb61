"""scikit-learn's interface of an estimator, without scikit-learn."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from typing_extensions import Self


class Estimator:
    """What scikit-learn asks of a classifier besides fitting: parameters, clones, tags.

    The parameters are the arguments of `__init__`, which only stores them.
    """

    _estimator_type = "classifier"

    depends: ClassVar[tuple[str, ...]] = ()
    """Attributes that depend on the parameters, and go when one is replaced."""

    @classmethod
    def _parameters(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 - nothing is nested
        """The arguments of the constructor, as given."""
        return {name: getattr(self, name) for name in self._parameters()}

    def set_params(self, **params: Any) -> Self:
        """Replace arguments of the constructor; returns the estimator, without what it had learnt.

        Raises:
            ValueError: for a name that is none, as scikit-learn has it.
        """
        for name, value in params.items():
            if name not in self._parameters():
                kind = type(self).__name__
                raise ValueError(f"{kind} has no parameter {name!r}; it has {self._parameters()}")
            setattr(self, name, value)
        for name in self.depends if params else ():
            self.__dict__.pop(name, None)
        return self

    def __sklearn_clone__(self) -> Self:  # the model is shared, not copied
        return type(self)(**self.get_params())

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(multi_label=bool(getattr(self, "multi_label", False))),
            input_tags=InputTags(),
        )
