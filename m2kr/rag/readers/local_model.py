"""A model of transformers on this machine that a reader generates with: opening it, its device and type.

A model's own code is never run.
"""

import copy
import importlib.util
import inspect
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from m2kr import atomic, locks, paths
from m2kr.errors import InputError, MissingError, UsageError, one_line
from m2kr.hashes import file_sha256
from m2kr.retrievers._model_source import ModelSource
from m2kr.retrievers._models import ModelFiles, cached_sha256, pick_device, require_packages

EXTRA, _MORE = "models", "rag"

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class LocalModel:
    """A generative model by folder or hub id; nothing of it is read before it is needed.

    Args:
        model: Folder or hub id.
        needed_for: The reader, for errors.
        revision: Of a hub id.
        gguf_file: The weights' file in the folder, if they are in GGUF. They are made into safetensors
            once, in ``cache``, and read from there.
        adapter: A folder of peft's, such as a LoRA; it is merged into the weights.
        dtype: ``auto`` is float32 on the processor and bfloat16 on a GPU (T5 overflows in float16).
        device: ``auto``, ``cpu``, ``cuda`` ...
        cache: Where converted weights are kept; by default ``cache/gguf`` in the data root.

    Raises:
        MissingError: A package is not installed; there is no such adapter.
        UsageError: A revision of a folder.
    """

    def __init__(
        self,
        model: str,
        needed_for: str,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        adapter: Path | None = None,
        dtype: Precision = "auto",
        device: str = "auto",
        cache: Path | None = None,
    ) -> None:
        require_packages(("torch", "transformers"), EXTRA, needed_for)
        self._what = f"model of {needed_for}"
        self._dtype, self._device = dtype, device
        self._original, self._gguf_file = ModelSource(model, revision), gguf_file
        self._source = self._original
        self._adapter = None if adapter is None else _adapter_files(adapter)
        if gguf_file is not None:
            self._source = ModelSource(str(self._from_gguf(gguf_file, cache)))

    @property
    def short_name(self) -> str:
        """The folder's or hub id's last part, or the GGUF file's name."""
        if self._gguf_file is not None:
            return Path(self._gguf_file).stem
        return Path(self._original.load_from).name

    @property
    def device(self) -> str:
        """What it computes on.

        Raises:
            UsageError: This machine lacks the device that was asked for.
        """
        return pick_device(self._device)

    @property
    def dtype(self) -> str:
        """The type that it computes in: ``float32``, ``bfloat16`` or ``float16``."""
        if self._dtype != "auto":
            return self._dtype
        return "float32" if self.device == "cpu" else "bfloat16"

    def facts(self) -> dict[str, Any]:
        """What decides its outputs: files or revision, adapter, type, and transformers' version."""
        import transformers

        if self._gguf_file is None:
            facts = self._source.facts(self.config)
        else:
            path = Path(self._original.load_from) / self._gguf_file
            facts = {"model": self._gguf_file, "files_sha256": cached_sha256(path)}
        if self._adapter is not None:
            facts["adapter_sha256"] = self._adapter.sha256()
        return {**facts, "dtype": self.dtype, "transformers": transformers.__version__}

    def config(self) -> Any:
        """Its configuration.

        Raises:
            MissingError: There is no such model, or it is of a kind that transformers doesn't know.
            UsageError: It is made by code of its own.
        """
        from transformers import AutoConfig

        with self._source.loading(self._what, "a folder with config.json") as how:
            config = AutoConfig.from_pretrained(self._source.load_from, **how)
        self._source.remember(config)
        return config

    def open_tokenizer(self) -> Any:
        """Its tokenizer."""
        from transformers import AutoTokenizer

        with self._source.loading(
            f"tokenizer for the {self._what}", "a folder with its files"
        ) as how:
            return AutoTokenizer.from_pretrained(self._source.load_from, **how)

    def open_processor(self) -> Any:
        """What prepares texts and images for it."""
        import transformers
        from transformers.models.auto import processing_auto

        library: Any = transformers
        names: Any = processing_auto
        name = names.PROCESSOR_MAPPING_NAMES.get(self.config().model_type, "AutoProcessor")
        with self._source.loading(
            f"processor for the {self._what}", "a folder with its files"
        ) as how:
            if importlib.util.find_spec("torchvision") is None:
                kind = getattr(library, name)
                if "video_processor" in inspect.signature(kind.__init__).parameters:
                    return _without_videos(kind, self._source.load_from, how)
            return library.AutoProcessor.from_pretrained(self._source.load_from, **how)

    def open_model(self, kind: Any) -> Any:
        """The model on its device, in evaluation mode, with the adapter merged in.

        Args:
            kind: A class of transformers', such as ``AutoModelForCausalLM``.
        """
        import torch

        device = self.device
        with self._source.loading(self._what, "a folder with config.json and weights") as how:
            model, report = kind.from_pretrained(
                self._source.load_from,
                dtype=getattr(torch, self.dtype),
                output_loading_info=True,
                **how,
            )
        # What is missing would be random: an answer of chance.
        if missing := sorted(report["missing_keys"]):
            raise InputError(
                f"{len(missing):,} of the model's weights are not in its files, such as {missing[0]}",
                where=self._source.load_from,
                expected=f"the weights of a {type(model).__name__}",
            )
        if self._adapter is not None:
            model = _merged(model, self._adapter.folder)
            self._adapter.require_unchanged()
        return model.eval().to(device)

    def _from_gguf(self, name: str, cache: Path | None) -> Path:
        """The folder with the weights of a GGUF file in safetensors, made if it isn't there."""
        require_packages(("gguf", "accelerate"), _MORE, "a model in GGUF")
        path = Path(self._original.load_from) / name
        if not self._original.local or not path.is_file() or path.name != name:
            raise MissingError(
                "there is no such GGUF file",
                where=str(path),
                expected="gguf_file, a file in the folder that is given as the model",
            )
        if cache is None:
            cache = paths.data_root() / "cache" / "gguf"
        folder = cache.expanduser().absolute() / f"{path.stem}-{file_sha256(path)[:16]}"
        if not folder.is_dir():
            cache.expanduser().mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(f".{folder.name}.lock")
            with locks.hold(lock, f"the conversion of {path.name}"):
                if not folder.is_dir():  # another process may have made it meanwhile
                    with atomic.writing(folder, alone=True) as aside:
                        _convert_gguf(path, aside)
        return folder


def greedy(model: Any, max_tokens: int, beams: int = 1) -> Any:
    """A configuration of generation that draws nothing and penalises nothing, with the model's own ends."""
    config = copy.deepcopy(model.generation_config)
    config.do_sample, config.num_beams, config.max_new_tokens = False, beams, max_tokens
    config.temperature = config.top_p = config.repetition_penalty = 1.0
    config.top_k, config.max_length, config.min_length = 50, None, 0
    config.no_repeat_ngram_size, config.length_penalty = 0, 1.0
    config.early_stopping = False
    config.output_logits = config.return_dict_in_generate = True
    if config.pad_token_id is None:
        ends = config.eos_token_id
        config.pad_token_id = ends[0] if isinstance(ends, list) else ends
    return config


def up_to_end(tokens: Sequence[int], config: Any) -> list[int]:
    """Generated tokens up to the first that ends a text, with it; what follows is padding."""
    ends = config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    for place, token in enumerate(tokens):
        if token in ends:
            return list(tokens[: place + 1])
    return list(tokens)


def written_tokens(out: Any, config: Any) -> list[tuple[list[int], list[float]]]:
    """What was generated greedily to each prompt: tokens up to the end, and their log probabilities.

    Args:
        out: Of ``generate`` with a configuration of `greedy`.
        config: That configuration.
    """
    import torch

    tokens = out.sequences[:, -len(out.logits) :]
    scores = torch.stack(
        [
            torch.log_softmax(logits.float(), -1).gather(1, tokens[:, [step]])[:, 0]
            for step, logits in enumerate(out.logits)
        ],
        dim=1,
    )
    rows = [up_to_end(row, config) for row in tokens.tolist()]
    return [(row, score[: len(row)]) for row, score in zip(rows, scores.tolist(), strict=True)]


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """A pattern of the marks of a tokenizer that stand for no text, such as ``</s>`` and ``<image>``."""
    marks = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    longest_first = sorted(marks | set(tokenizer.all_special_tokens), key=len, reverse=True)
    # A mark of one character can't be taken apart.
    return re.compile("|".join(re.escape(m) for m in longest_first if len(m) > 1) or r"(?!)")


def _without_videos(kind: Any, model: str, how: dict[str, Any]) -> Any:
    """A processor that reads no videos: transformers' need torchvision, and no reader is shown any."""
    import transformers

    library: Any = transformers
    parts = {
        "image_processor": library.AutoImageProcessor.from_pretrained(model, **how),
        "tokenizer": library.AutoTokenizer.from_pretrained(model, **how),
        "video_processor": None,
    }
    # The class itself insists on a part for videos.
    unchecked = {"check_argument_for_proper_class": lambda *_: None}
    made: Any = type(kind.__name__, (kind,), unchecked)
    order = [name for name in inspect.signature(kind.__init__).parameters if name in parts]
    settings, _ = kind.get_processor_dict(model, **how)
    if settings.get("chat_template") is None:
        settings["chat_template"] = parts["tokenizer"].chat_template
    return made.from_args_and_dict([parts[name] for name in order], settings)


def _convert_gguf(path: Path, folder: Path) -> None:
    import torch
    import transformers
    from transformers.utils import logging as tf_logging

    library: Any = transformers
    bars: Any = tf_logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        how = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
        read = library.AutoModelForCausalLM.from_pretrained(
            str(path.parent), dtype=torch.float32, **how
        )
        tokenizer = library.AutoTokenizer.from_pretrained(str(path.parent), **how)
        config = copy.deepcopy(read.config)
        if hasattr(config, "quantization_config"):  # with it transformers refuses to save
            del config.quantization_config
        model = library.AutoModelForCausalLM.from_config(config)
        model.load_state_dict(read.state_dict(), strict=True, assign=True)
        model.tie_weights()
        model.generation_config = read.generation_config
        folder.mkdir()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # the disk, not the file's content
            raise
        raise InputError(
            f"the GGUF file can't be read: {one_line(error)}",
            where=str(path),
            expected="a whole file of an architecture that transformers reads, such as Llama or Qwen2",
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()


def _adapter_files(adapter: Path) -> ModelFiles:
    require_packages(("peft",), _MORE, "an adapter")
    folder = Path(adapter).expanduser()
    if not (folder / "adapter_config.json").is_file():
        raise MissingError(
            "there is no adapter",
            where=str(folder),
            expected="a folder that peft wrote, with adapter_config.json and its weights",
        )
    folder = folder.resolve()
    return ModelFiles(folder, (path for path in folder.iterdir() if path.suffix != ".md"))


def _merged(model: Any, folder: Path) -> Any:
    """The model with a peft adapter merged into its weights."""
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            # peft only warns of weights that have no place, and leaves an adapter that does nothing.
            warnings.simplefilter("ignore")
            adapted: Any = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
            loaded = adapted.load_adapter(str(folder), "default")
    except (ValueError, RuntimeError, KeyError, OSError, TypeError) as error:
        raise InputError(
            f"the adapter can't be put on this model: {one_line(error)}", where=str(folder)
        ) from error
    strays = [*loaded.missing_keys, *loaded.unexpected_keys]
    if strays:
        raise InputError(
            f"{len(strays):,} of the adapter's weights don't fit the model, such as {strays[0]}",
            where=str(folder),
            expected="an adapter of this very model",
        )
    return adapted.merge_and_unload()


def require_positive(name: str, value: float) -> None:
    """Refuses a setting that must be above 0.

    Raises:
        UsageError: It isn't.
    """
    if not value > 0:
        raise UsageError(f"{name}={value}", expected="a number above 0")
