"""FLMR and PreFLMR checkpoints for transformers' Auto classes, without their remote code.

After `register`, ``AutoConfig``, ``AutoModel`` and ``AutoTokenizer`` open a checkpoint that says
``model_type: flmr`` with the classes of this package; ``trust_remote_code`` is never needed.
"""

from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.configuration_utils import PretrainedConfig

from m2kr.errors import UsageError
from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
from m2kr.preflmr.model.configuration import BertSettings, PreFLMRConfig
from m2kr.preflmr.preflmr import PreFLMR

_OF_AUTO = (
    "_commit_hash",
    "_from_auto",
    "adapter_kwargs",
    "config",
    "trust_remote_code",
    "use_fast",
)


class FLMRConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """A checkpoint's config as transformers holds it; `settings` gives ours."""

    model_type = "flmr"

    def settings(self, mapping: BertSettings | None = None) -> PreFLMRConfig:
        """Our config, checked.

        Args:
            mapping: What ``transformer_mapping_config_base`` stands for, where it is a folder.
        """
        return PreFLMRConfig.from_dict(self.to_dict(), mapping=mapping)


class FLMRTextConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """The key that transformers files the documents' tokenizer under."""

    model_type = "flmr_text_model"


class _OldQueryConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    model_type = "flmr_query_tokenizer"


class _OldContextConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    model_type = "flmr_context_tokenizer"


class FLMRModelForRetrieval(PreFLMR):
    """`PreFLMR` with the arguments that ``AutoModel.from_pretrained`` passes on."""

    config_class = FLMRConfig

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **options: Any) -> Self:
        """See `PreFLMR.from_pretrained`; also takes transformers' names of options."""
        for name in _OF_AUTO:
            options.pop(name, None)
        dtype = options.pop("torch_dtype", None)
        dtype = options.pop("dtype", None) or dtype or torch.float32
        if isinstance(dtype, str):
            dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise UsageError("dtype is unknown to torch", expected='"float32", "bfloat16", …')
        if attention := options.pop("attn_implementation", None):
            options["attention"] = attention
        if _is_local(checkpoint):
            options.pop("revision", None)
        return super().from_pretrained(checkpoint, dtype=dtype, **options)


class _FromAuto:
    """Takes what AutoTokenizer passes on, drops what only transformers needs."""

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **options: Any) -> Any:
        for name in _OF_AUTO:
            options.pop(name, None)
        if _is_local(checkpoint):
            options.pop("revision", None)
        return super().from_pretrained(checkpoint, **options)  # type: ignore[misc]


class FLMRBertQueryEncoderTokenizer(_FromAuto, QueryTokenizer):
    """`QueryTokenizer` under the name in official tokenizer_config.json files."""


class FLMRBertContextEncoderTokenizer(_FromAuto, ContextTokenizer):
    """`ContextTokenizer` under the name in official tokenizer_config.json files."""


class FLMRQueryEncoderTokenizer(_FromAuto, QueryTokenizer):
    """`QueryTokenizer` under the name that the released checkpoints' files have."""


class FLMRContextEncoderTokenizer(_FromAuto, ContextTokenizer):
    """`ContextTokenizer` under the name that the released checkpoints' files have."""


def register() -> None:
    """Tells transformers' Auto classes about these models; calling it again changes nothing."""
    AutoConfig.register("flmr", FLMRConfig, exist_ok=True)
    AutoConfig.register("flmr_text_model", FLMRTextConfig, exist_ok=True)
    AutoModel.register(FLMRConfig, FLMRModelForRetrieval, exist_ok=True)
    # transformers finds a tokenizer's class by its name, among one a config class.
    for config, tokenizer in (
        (FLMRConfig, FLMRBertQueryEncoderTokenizer),
        (FLMRTextConfig, FLMRBertContextEncoderTokenizer),
        (_OldQueryConfig, FLMRQueryEncoderTokenizer),
        (_OldContextConfig, FLMRContextEncoderTokenizer),
    ):
        AutoTokenizer.register(  # type: ignore[no-untyped-call]
            config, slow_tokenizer_class=tokenizer, exist_ok=True
        )


def _is_local(checkpoint: str | Path) -> bool:
    return Path(checkpoint).is_dir()
