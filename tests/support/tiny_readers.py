"""Tiny random generative models with tokenizers of a few words, saved as people's checkpoints are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WORDS = (
    "question answer knowledge passage the a of is in what which name castle river bear russia india "
    "1905 two short image show does from number text system user : . , ? ! 1 2 3 long and"
)
WORDS = _WORDS.split()

CHAT = (
    "{% for m in messages %}<|start|>{{ m.role }} {% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content %}{% if p.type == 'image' %}IMAGE{% else %}{{ p.text }}"
    "{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant {% endif %}"
)


def word_tokenizer(
    words: Sequence[str] = WORDS, *, end: str = "<|end|>", marks: Sequence[str] = (), **more: Any
) -> Any:
    """A fast tokenizer of whole words: padding is 0, unknown words 1, the end 2."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(("<pad>", "<unk>", end, *words))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=end,
        additional_special_tokens=list(marks),
        clean_up_tokenization_spaces=False,
        **more,
    )


def save_llama(folder: Path, *, context: int = 256, chat: bool = True) -> Path:
    """A causal language model without sight."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer(marks=["<|start|>"])
    if chat:
        tokenizer.chat_template = CHAT
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,  # so that every token counts
        max_position_embeddings=context,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_t5(folder: Path) -> Path:
    """A sequence-to-sequence language model."""
    import torch
    from transformers import T5ForConditionalGeneration

    tokenizer = word_tokenizer(end="</s>")
    torch.manual_seed(1)
    T5ForConditionalGeneration(_t5(len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _t5(vocabulary: int) -> Any:
    from transformers import T5Config

    return T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
        initializer_factor=3.0,
    )


def save_blip2(folder: Path, words: Sequence[str] = WORDS) -> Path:
    """A BLIP-2 with a T5, and images of 16 pixels."""
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
    )

    tokenizer = word_tokenizer(words, end="</s>")
    processor = Blip2Processor(_blip_images(16), tokenizer, num_query_tokens=2)
    vision = Blip2VisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    former = Blip2QFormerConfig(
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        encoder_hidden_size=16,
    )
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=former.to_dict(),
        text_config=_t5(len(processor.tokenizer)).to_dict(),
        num_query_tokens=2,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(2)
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _save_parts(
    folder: Path, images: Any, tokenizer: Any, processor: str, template: str, **more: Any
) -> None:
    """The files of a processor that can't be made without torchvision, as checkpoints have them."""
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    facts = {"processor_class": processor, **more}
    (folder / "processor_config.json").write_text(json.dumps(facts), encoding="utf-8")


def _blip_images(side: int) -> Any:
    import transformers

    # transformers 5 has the one without torchvision under a name of its own.
    kind = getattr(transformers, "BlipImageProcessorPil", None) or transformers.BlipImageProcessor
    return kind(size={"height": side, "width": side})


def save_qwen2_vl(folder: Path) -> Path:
    """A Qwen2-VL."""
    import torch
    import transformers
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    marks = ["<|start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = word_tokenizer(marks=marks)
    ids = dict(zip(marks, tokenizer.convert_tokens_to_ids(marks), strict=True))
    images = getattr(transformers, "Qwen2VLImageProcessorPil", None)
    images = (images or transformers.Qwen2VLImageProcessor)(
        patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=64, max_pixels=1024
    )
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    _save_parts(folder, images, tokenizer, "Qwen2VLProcessor", CHAT.replace("IMAGE", image))
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "initializer_range": 0.5,
            "max_position_embeddings": 512,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 2,
        },
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        initializer_range=0.5,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(3)
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    return folder


def save_smolvlm(folder: Path) -> Path:
    """A SmolVLM, as Idefics3: the processor of the class SmolVLM needs num2words."""
    import torch
    import transformers
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    marks = [
        "<|start|>",
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
        "<end_of_utterance>",
    ]
    rows = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    tokenizer = word_tokenizer(marks=[*marks, *rows])
    images = getattr(transformers, "Idefics3ImageProcessorPil", None)
    images = (images or transformers.Idefics3ImageProcessor)(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True
    )
    template = CHAT.replace("IMAGE", "<image>")
    _save_parts(folder, images, tokenizer, "Idefics3Processor", template, image_seq_len=4)
    config = Idefics3Config(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "initializer_range": 0.5,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        initializer_range=0.5,
        pad_token_id=0,
    )
    torch.manual_seed(4)
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    return folder
