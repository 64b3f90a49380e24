"""The recipe of a Trainer: the constructor's arguments, from which every trial gets a Trainer without a past."""

from __future__ import annotations

import copy
import dis
import gc
import inspect
import types
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from tunesmith import process_state
from tunesmith.errors import SettingError
from tunesmith.refusal import accept_use

RECORD = "_tunesmith_call"
_START = "_tunesmith_start"
# attributes that a Trainer's constructor, training or a search makes anew; all others that differ from what the constructor
# left behind were set by the user, and are set again after each rebuild
_OWN = {
    RECORD, _START,
    "model", "model_wrapped", "optimizer", "lr_scheduler", "callback_handler", "accelerator", "state", "control",
    "args", "is_in_train", "current_flos", "hp_name", "hp_search_backend", "hp_space", "objective",
    "compute_objective", "deepspeed", "neftune_hook_handle", "label_smoother", "is_deepspeed_enabled",
    "is_fsdp_enabled", "gather_function", "place_model_on_device", "is_model_parallel", "total_batched_samples",
    "num_input_tokens_seen", "ref_model", "model_init",
    "is_fsdp_xla_enabled", "is_fsdp_xla_v1_enabled", "is_fsdp_xla_v2_enabled", "use_apex", "use_cpu_amp", "amp_dtype",
    "current_gradient_accumulation_steps", "is_tp_enabled", "neftune_noise_alpha", "train_dataset", "eval_dataset",
}  # fmt: skip
# of these the constructor must know what the user put in their place since: it prepares them, or is made with them
_GIVEN_AGAIN = ("train_dataset", "eval_dataset", "model_init")
_BARS = (ProgressCallback, PrinterCallback)
_PLAIN = (bool, int, float, str)
# their constructors' own parameters are in what the constructor has made of the model and the data
_LIBRARIES = {"transformers", "trl", "sentence_transformers"}


class Recording(type):
    """A metaclass that keeps the arguments an instance was made with, those of the outermost subclass."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: D102  as of any class
        trainer = super().__call__(*args, **kwargs)
        vars(trainer)[RECORD] = (args, kwargs, _built(trainer))
        return trainer


def _built(trainer: Trainer) -> dict[str, Any]:
    """What the constructor left behind, by which later changes of the user's are known."""
    return {k: v for k, v in vars(trainer).items() if k in _GIVEN_AGAIN or k not in _OWN}


def _changed(trainer: Trainer, built: Mapping[str, Any], *, same: bool) -> dict[str, Any]:
    """What the user has set since, by the difference from what a constructor leaves behind.

    `same`: `built` is what this Trainer's own constructor left, else what one of another Trainer like it did, whose objects
    are others anyway: there only plain values tell.

    What a method of transformers' classes sets is theirs (a first evaluation leaves `model_preparation_time`), and what any
    method of the class sets is its state where the name begins with an underscore, or where another Trainer has it too.
    """

    def differs(before: Any, now: Any) -> bool:
        if same:
            return before is not now
        return isinstance(now, _PLAIN) and isinstance(before, (*_PLAIN, type(None))) and before != now

    found = {
        name: value
        for name, value in vars(trainer).items()
        if name not in _OWN and (name not in built or differs(built[name], value))
    }
    if not found:
        return found
    set_by = {kind: _set_by_methods(kind) for kind in type(trainer).__mro__}  # which reads all their code
    anyone = set().union(*set_by.values())
    libraries = set().union(*(names for kind, names in set_by.items() if _root(kind.__module__) in _LIBRARIES))
    state = {n for n in found if n.startswith("_") or (n in built and not same)}
    return {n: v for n, v in found.items() if n not in (anyone if n in state else libraries)}


def _set_by_methods(kind: type) -> set[str]:
    """The attributes that a class's own methods set, its constructor left out."""
    functions = [f for name, f in vars(kind).items() if isinstance(f, types.FunctionType) and name != "__init__"]
    return {i.argval for f in functions for i in dis.get_instructions(f) if i.opname == "STORE_ATTR"}


def _root(module: str) -> str:
    return module.partition(".")[0]


@dataclass
class Recipe:
    """How to make a Trainer like the user's: the constructor's keyword arguments, and what was changed since.

    `changed` holds attributes set after construction, `callbacks` all callbacks of the user's Trainer as they were at
    the start of the search, `given` those that the constructor takes. `recorded`: all that the constructor was given.
    `weights` are those that trials start from, where there is no model_init; `found` those that the model had, where they
    are an earlier search's best.
    """

    trainer: Trainer
    kwargs: dict[str, Any]
    changed: Mapping[str, Any]
    callbacks: list[TrainerCallback]
    given: list[Any]
    recorded: Mapping[str, Any] | None = None
    weights: dict[str, torch.Tensor] | None = None
    found: dict[str, torch.Tensor] | None = None
    frozen: dict[str, int] = field(default_factory=dict)
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    optimizers: list[dict[str, Any] | None] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """The constructor's arguments and callbacks by their names: an error in pickling names what users know."""
        rest = {"trainer": self.trainer, "arguments": [*self.kwargs], "given": self.given}
        return {**self.kwargs, "callbacks": self.callbacks, "trainer": self.changed, "recipe": rest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        rest = state["recipe"]
        kwargs = {name: state[name] for name in rest["arguments"]}
        vars(self).update(vars(Recipe(rest["trainer"], kwargs, state["trainer"], state["callbacks"], rest["given"])))
        if kwargs.get("model") is not None:
            self._keep_weights()

    @classmethod
    def of(cls, trainer: Trainer) -> Recipe:
        """Read the recipe off a Trainer: as recorded (tunesmith.Trainer, tunable), else by the constructor's names."""
        recorded = vars(trainer).get(RECORD)
        if recorded is not None:
            args, kwargs, built = recorded
            given = {**_by_position(type(trainer).__mro__, args), **kwargs}
            changed = _changed(trainer, built, same=True)
            for name in _GIVEN_AGAIN:
                if vars(trainer).get(name) is not built.get(name):
                    where = given if _takes(type(trainer), name) else changed
                    where[name] = vars(trainer).get(name)
        else:
            given, changed = _by_names(trainer, inspect.signature(type(trainer).__init__)), {}
        recipe = cls(
            trainer=trainer,
            kwargs={k: v for k, v in given.items() if k not in ("args", "callbacks")},
            changed=changed,
            callbacks=list(trainer.callback_handler.callbacks),
            given=list(given.get("callbacks") or []),
            recorded=None if recorded is None else dict(given),
        )
        if trainer.model_init is None:
            recipe._keep_model()
        elif "model" in recipe.kwargs:
            recipe.kwargs["model"] = None
        return recipe

    def compare(self, made: Trainer) -> None:
        """Learn from a Trainer made by this recipe what the user's has that the arguments read off it do not give.

        Where the constructor's were recorded that is known already. Else attributes that it lacks, and plain values that are
        others there, must have been set since, or come from arguments that cannot be read off.
        """
        if self.recorded is None:
            self.changed = _changed(self.trainer, vars(made), same=False)

    def _keep_model(self) -> None:
        """Without model_init the built model is used again, with its weights put back before each trial."""
        model = self.trainer.model
        _unprepare(model)
        accept_use(model)
        if not _takes(type(self.trainer), "model"):
            raise SettingError(f"{type(self.trainer).__name__} takes no model; give it a model_init to search with it")
        self.kwargs["model"] = model
        self.kwargs.pop("peft_config", None)  # the built model has its adapters
        self._keep_weights()
        start, checksums = vars(self.trainer).get(_START, ({}, {}))
        if self.weights and start.keys() == self.weights.keys() and checksums == _checksums(self.weights):
            self.found, self.weights = self.weights, start

    def remember_start(self) -> None:
        """Let another search of the Trainer start where this one did, as long as nobody trains the model meanwhile."""
        if self.weights is not None:
            state = self.kwargs["model"].state_dict()
            vars(self.trainer)[_START] = (self.weights, _checksums({name: state[name] for name in self.weights}))

    def _keep_weights(self) -> None:
        model = self.kwargs["model"]
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        buffers = {n for n, _ in model.named_buffers()}
        state = model.state_dict(keep_vars=True)
        self.weights = {n: t.detach().cpu().clone() for n, t in state.items() if n in trained | buffers}
        self.modules = {name: _plain(module) for name, module in model.named_modules()}
        self.frozen = _checksums({n: p for n, p in model.named_parameters() if n not in trained})
        given = self.kwargs.get("optimizers") or ()
        self.optimizers = [None if each is None else copy.deepcopy(each.state_dict()) for each in given]

    def restore_weights(self) -> None:
        """Put the weights back as they were at the start of the search, and an optimizer and scheduler that were given.

        Raises SettingError if frozen weights have changed.
        """
        if self.weights is None:
            return
        model = self.kwargs["model"]
        for name, module in model.named_modules():
            if name in self.modules:
                _set_plain(module, self.modules[name])
        now = _checksums({n: p for n, p in model.named_parameters() if n in self.frozen})
        for name, parameter in model.named_parameters():
            parameter.grad = None
            if name in self.frozen:
                if now[name] != self.frozen[name]:
                    raise SettingError(
                        f"frozen weights must stay as they are between trials, and a trial has changed {name!r}; "
                        "give the Trainer a model_init"
                    )
                parameter.requires_grad_(False)
            else:
                parameter.requires_grad_(True)
        model.load_state_dict(self.weights, strict=False)
        for given, state in zip(self.kwargs.get("optimizers") or (), self.optimizers, strict=True):
            if state is not None:
                given.load_state_dict(copy.deepcopy(state))

    def rebuild(self, trainer: Trainer, args: Any, *, fresh_callbacks: bool, bars: bool) -> None:
        """Make `trainer` anew, in place, with these arguments and without anything of its past.

        `fresh_callbacks`: copies of the callbacks as they were; else the user's own objects. `bars`: whether
        transformers' progress bars (or printed logs) are kept.
        """
        process_state.forget_accelerator(self.trainer)
        copied = _Copier(self.trainer, self.kwargs) if fresh_callbacks else (lambda callback: callback)
        given = [copied(c) for c in self.given]
        vars(trainer).clear()
        kwargs = {**self.kwargs, "args": args}
        if given:
            kwargs["callbacks"] = given
        type(trainer).__init__(trainer, **kwargs)
        if self.recorded is not None:
            vars(trainer)[RECORD] = ((), self.recorded, _built(trainer))
        for name, value in self.changed.items():
            setattr(trainer, name, value)
        self._settle_callbacks(trainer, copied)
        if not bars:
            for kind in _BARS:
                trainer.remove_callback(kind)

    def _settle_callbacks(self, trainer: Trainer, copied: Callable[[Any], Any]) -> None:
        """Add callbacks that the user added after construction, remove those that the user removed."""
        handler = trainer.callback_handler
        wanted = Counter(type(c) for c in self.callbacks if not isinstance(c, _BARS))
        present = Counter(type(c) for c in handler.callbacks if not isinstance(c, _BARS))
        for kind in present - wanted:
            for _ in range((present - wanted)[kind]):
                trainer.remove_callback(kind)
        missing = wanted - present
        for original in self.callbacks:
            if missing[type(original)] > 0:
                missing[type(original)] -= 1
                trainer.add_callback(copied(original))


def _checksums(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """By which weights are known again; torch's own counts of writes miss those of fused optimizers.

    0 for those that are elsewhere, as accelerate's offloading leaves them.
    """
    return {name: 0 if tensor.is_meta else _checksum(tensor) for name, tensor in weights.items()}


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


_TENSORS = {"_parameters", "_buffers", "_modules"}


def _plain(module: torch.nn.Module) -> dict[str, Any]:
    """What a module holds beside its tensors: hooks, whether activations are checkpointed, a wrapped forward."""
    state = {k: copy.copy(v) if isinstance(v, dict) else v for k, v in vars(module).items() if k not in _TENSORS}
    config: Any = getattr(module, "config", None)
    if hasattr(config, "use_cache"):
        state["config.use_cache"] = config.use_cache
    return state


def _set_plain(module: torch.nn.Module, state: Mapping[str, Any]) -> None:
    for name in set(vars(module)) - _TENSORS - set(state):
        del vars(module)[name]
    for name, value in state.items():
        if name == "config.use_cache":
            module.config.use_cache = value
        else:
            vars(module)[name] = copy.copy(value) if isinstance(value, dict) else value


def _unprepare(model: torch.nn.Module) -> None:
    """Take off what accelerate has put around a model's forward in an earlier training: autocast, which cannot be pickled.

    Accelerate's own `unwrap_model` takes off the model's decorators too, and leaves the mark by which it knows a model
    that needs no autocast any more.
    """
    own = vars(model).pop("_original_forward", None)
    if own is None:
        return
    vars(model).pop("_is_accelerate_prepared", None)
    if getattr(own, "__func__", None) is type(model).forward:
        del model.forward
    else:
        model.forward = own


def release(trainer: Trainer) -> None:
    """Free the model, optimizer and accelerator memory that a trial leaves behind."""
    state = vars(trainer)
    accelerator = state.get("accelerator")
    if accelerator is not None:
        accelerator.free_memory()
    modules = [name for name, value in state.items() if isinstance(value, torch.nn.Module)]  # TRL's ref_model too
    for name in {"model", "model_wrapped", "optimizer", "lr_scheduler", "deepspeed", *modules}:
        state[name] = None
    handler = state.get("callback_handler")
    for name in ("model", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader"):
        if handler is not None:
            setattr(handler, name, None)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def old_objects_aside() -> Iterator[None]:
    """Let the garbage collector pass over what is alive now: libraries and data, by far the most of what it walks through.

    Each trial ends in collections, which take a tenth of a second of CPU time or more otherwise. Nothing is changed
    where somebody has set objects aside already, since the two could not be told apart at the end.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _by_position(kinds: Sequence[type], values: Sequence[Any]) -> dict[str, Any]:
    """What a constructor was given by position, by names; what it takes as `*args`, it hands to the next class's."""
    if not values:
        return {}
    at = next(k for k, kind in enumerate(kinds) if "__init__" in vars(kind))
    signature = inspect.signature(vars(kinds[at])["__init__"])
    found: dict[str, Any] = {}
    for name, value in [*signature.bind_partial(None, *values).arguments.items()][1:]:
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            found |= _by_position(kinds[at + 1 :], value)
        else:
            found[name] = value
    return found


def _takes(kind: type, name: str) -> bool:
    """Whether a constructor takes an argument of this name."""
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]  # of the class as it is
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _by_names(trainer: Trainer, signature: inspect.Signature) -> dict[str, Any]:
    """The constructor's arguments of a Trainer that was not recorded, from its attributes of the same names."""
    defaults = {type(c) if not isinstance(c, type) else c for c in _default_callbacks(trainer.args)}
    found: dict[str, Any] = {}
    unread: dict[str, Any] = {}
    parameters = [*signature.parameters.values()][1:]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        parameters += [p for p in inspect.signature(Trainer.__init__).parameters.values() if p.name != "self"]
    for p in parameters:
        if p.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue
        if p.name == "callbacks":
            found[p.name] = [c for c in trainer.callback_handler.callbacks if type(c) not in defaults]
        elif p.name == "optimizers":
            found[p.name] = _given_optimizers(trainer)
        elif hasattr(trainer, p.name):
            found[p.name] = getattr(trainer, p.name)
        elif p.default is inspect.Parameter.empty:
            raise SettingError(
                f"the constructor's arguments of {type(trainer).__name__} must be known, and {p.name!r} cannot be read "
                f"off the trainer; make it with tunesmith.tunable({type(trainer).__name__})(...)"
            )
        else:
            unread[p.name] = p.default
    if unread and _root(type(trainer).__init__.__module__) not in _LIBRARIES:
        warnings.warn(
            f"the constructor's arguments of {type(trainer).__name__} must be known, and what cannot be read off the trainer "
            f"is taken to be its default: {', '.join(f'{n}={v!r}' for n, v in unread.items())}; if it is not, make it with "
            f"tunesmith.tunable({type(trainer).__name__})(...)",
            UserWarning,
            stacklevel=2,
        )
    return found


def _given_optimizers(trainer: Trainer) -> tuple[Any, Any]:
    """The optimizer and scheduler that the constructor was given, (None, None) where a training has made them."""
    optimizer = trainer.optimizer
    if trainer.model_init is not None or optimizer is None:
        return None, None
    if not isinstance(optimizer, AcceleratedOptimizer):
        return optimizer, trainer.lr_scheduler
    if type(optimizer.optimizer) is not Trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)[0]:
        raise SettingError(
            f"optimizers that the Trainer was made with must be known, and after a training {type(optimizer.optimizer).__name__} "
            f"may be one of them or not; make it with tunesmith.tunable({type(trainer).__name__})(...)"
        )
    return None, None


def _default_callbacks(args: Any) -> list[Any]:
    from transformers.integrations import get_reporting_integration_callbacks  # noqa: PLC0415  only needed here
    from transformers.trainer import DEFAULT_CALLBACKS, DEFAULT_PROGRESS_CALLBACK  # noqa: PLC0415

    return [
        *DEFAULT_CALLBACKS,
        *get_reporting_integration_callbacks(args.report_to),
        DEFAULT_PROGRESS_CALLBACK,
        *_BARS,
    ]


class _Copier:
    """Deep copies of callbacks; what belongs to the Trainer (datasets, tokenizer, itself) is shared, not copied."""

    def __init__(self, trainer: Trainer, kwargs: Mapping[str, Any]) -> None:
        self._shared = {id(v): v for v in [trainer, *vars(trainer).values(), *kwargs.values()]}

    def __call__(self, original: Any) -> Any:
        if isinstance(original, type):
            return original
        try:
            return copy.deepcopy(original, dict(self._shared))
        except Exception as error:  # noqa: BLE001  anything a user's object may raise when copied
            warnings.warn(
                f"callback {type(original).__name__} cannot be copied ({type(error).__name__}: {error}); "
                "its state goes on from trial to trial",
                UserWarning,
                stacklevel=3,
            )
            return original
