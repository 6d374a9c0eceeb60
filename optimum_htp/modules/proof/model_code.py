"""Facts about a commit's tensors from the model's code: other names, layer classes, and computed tensors.

The model is built from its config on first use; it has no weights.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from optimum_htp.errors import ExportError, OptimumHTPError
from optimum_htp.forking import ForkSafeLock
from optimum_htp.libraries.class_sources import is_named_in_source
from optimum_htp.libraries.computed import computed_tensors, saved_names
from optimum_htp.libraries.sample_inputs import TEXT_INPUTS, of_all_modalities, sample_inputs
from optimum_htp.modules.proof.commit_tensors import READABLE, CommitTensors
from optimum_htp.modules.proof.recipes import Recipe, Run, UnreadableParameterError
from optimum_htp.modules.proof.traced import run_without_weights

__all__ = ["ModelCode"]

_INPUTS_FIRST: Final = "Conv1D"
"""The class of transformers' layers whose weight has a row for each input."""


class ModelCode:
    """The code of a commit's model.

    `model_type` returns the model type in its config, and `build` the model without weights.

    Attributes:
        failure: Why the model could not be built or run to its end; None if it could, or was not needed.
    """

    def __init__(
        self, library: str, model_type: Callable[[], str], build: Callable[[], Any], tensors: CommitTensors
    ) -> None:
        self._library = library
        self._model_type = model_type
        self._build = build
        self._tensors = tensors
        self.failure: str | None = None
        self._last: Run | None = None
        self._building = ForkSafeLock(threading.RLock)

    @property
    def model(self) -> Any:
        """The model without weights; None if it cannot be built. Other threads wait for the first one."""
        with self._building.held():
            return self._built

    @functools.cached_property
    def _built(self) -> Any:
        try:
            return self._build()
        except OptimumHTPError as error:
            self.failure = str(error)
            return None

    def rename(self) -> None:
        """Make the commit's tensors available under the names of the model's parameters."""
        if self.model is not None:
            self._tensors.rename(saved_names(self.model, self._tensors))

    @functools.cached_property
    def _classes(self) -> Mapping[str, str]:
        """The class of each module that owns tensors of the commit, by its name there."""
        if self.model is None:
            return {}
        found: dict[str, str] = {}
        for name, module in self.model.named_modules():
            for leaf, _ in module.named_parameters(recurse=False):
                for key in self._tensors.spelled(f"{name}.{leaf}" if name else leaf):
                    found[key.rpartition(".")[0]] = type(module).__name__
        return found

    def constants(self, size: int) -> Sequence[tuple[str, Any]]:
        """Return the tensors of a size that the model contains before it runs, by name."""
        return self._constants.get(size, ())

    @functools.cached_property
    def _constants(self) -> Mapping[int, list[tuple[str, Any]]]:
        found = defaultdict(list)
        if self.model is not None:
            self.rename()  # The code does not fill parameters that have another name in the checkpoint.
            for name, values in computed_tensors(self.model, self._is_saved):
                found[values.size].append((name, values))
        return found

    def recipes(self, sizes: Collection[int]) -> Mapping[int, list[Recipe]]:
        """Return the tensors that the model's code computes from parameters and constants, by size."""
        found: dict[int, list[Recipe]] = defaultdict(list)
        for recipe in self._run(sizes).recipes:
            found[recipe.size].append(recipe)
        return found

    @property
    def order(self) -> list[str]:
        """The tensors of the commit in the order in which the model's code uses them."""
        run = self._last or self._run(())
        return list(dict.fromkeys(key for names in run.order for name in names for key in self._tensors.spelled(name)))

    def _run(self, sizes: Collection[int]) -> Run:
        self._last = Run()
        if self.model is not None:
            try:
                inputs = sample_inputs(self.model, None, generates=False)
                self._last = self._run_on(inputs, sizes)
                if self._last.failure is not None:  # A model with two towers may need the other tower's input.
                    more = of_all_modalities(self.model, inputs)
                    again = self._run_on(more, sizes) if more.keys() != inputs.keys() else self._last
                    self._last = again if again.failure is None else self._last
            except ExportError as error:
                self._last = self._last if self._last.failure is not None else Run(failure=str(error))
            self.failure = self._last.failure
        return self._last

    def _run_on(self, inputs: Mapping[str, Any], sizes: Collection[int]) -> Run:
        """Run the model. If image tokens do not match the images (without a processor), run it on the text only."""
        run = run_without_weights(self.model, inputs, sizes, self._read, self._is_saved)
        text = {name: value for name, value in inputs.items() if name in TEXT_INPUTS}
        if run.failure is None or not text or text.keys() == inputs.keys():
            return run
        again = run_without_weights(self.model, text, sizes, self._read, self._is_saved)
        return Run((*run.recipes, *again.recipes), (*run.order, *again.order), again.failure)

    def _is_saved(self, name: str) -> bool:
        return bool(self._tensors.spelled(name))

    def _read(self, names: Sequence[str]) -> Any:
        """Return a parameter of the model with the commit's content."""
        import torch

        for key in dict.fromkeys(key for name in names for key in self._tensors.spelled(name)):
            if self._tensors[key].dtype in READABLE:
                return torch.from_numpy(self._tensors.values(key).astype("float32"))
        raise UnreadableParameterError(f"The commit has no tensor {names[0]}.")

    @functools.cached_property
    def _may_have_inputs_first(self) -> bool:
        return is_named_in_source(self._model_type(), _INPUTS_FIRST) is not False

    def has_outputs_first(self, key: str) -> bool | None:
        """Whether a square weight has a row for each output, as in `Linear`; None if this is unknown."""
        module, _, leaf = key.rpartition(".")
        if leaf != "weight" or self._library not in ("transformers", "diffusers"):
            return None
        if self._library == "diffusers" or not self._may_have_inputs_first:
            return True
        return {"Linear": True, _INPUTS_FIRST: False}.get(self._classes.get(module, ""))


"""Returns a parameter, by its names in the model, as a PyTorch tensor; raises `UnreadableParameterError`."""
