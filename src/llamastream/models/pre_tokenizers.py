"""How text is cut before byte-level BPE, by the name that GGUF files give it.

The expressions are those of the models' own `tokenizer.json`. Where llama.cpp's differ, for want of
a Unicode class say, the models' own are taken: the ids must be the original tokenizer's.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tokenizers import Regex, normalizers, pre_tokenizers


class Cutting(NamedTuple):
    """expressions: each cuts the pieces of the one before. whole_words: a piece that is a token is
    taken as it is, whatever merges say (`ignore_merges`). add_bos: llama.cpp's default.
    """

    expressions: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False
    nfc: bool = False


GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(digits: str, letters: str = r"\p{L}", line_ends: str = r"[\r\n]*") -> str:
    """GPT-4's way: suffixes, words with what is in front, digits, signs, spaces."""
    return (
        rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}"
        rf"| ?[^\s{letters.strip('[]')}\p{{N}}]+{line_ends}|{_SPACES}"
    )


LLAMA3_SPLIT = _words(r"\p{N}{1,3}")
QWEN2_SPLIT = _words(r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(digits: str, suffix: str) -> str:
    """GPT-4o's way: a word ends where its case turns."""
    front = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{front}{_UPPER}*{_LOWER}+{suffix}|{front}{_UPPER}+{_LOWER}*{suffix}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_ASCII_SIGNS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    _CJK,
    rf"{_ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
_CJK_KOREAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_KOREAN, r"\p{N}")
# Of scripts whose letters have a case, those that the expression leaves out.
_UNCASED = (
    "\u0560-\u0588\u10c7-\u10ff\u1c80-\u1c8a\u2d00-\u2d2d\ua790-\uab68"
    "\U00010570-\U000105bc\U00010d50-\U00010d85\U00016e40-\U0001df2a"
)
_CASED_LETTERS = rf"(?:(?![{_UNCASED}])[\p{{Lu}}\p{{Ll}}\p{{Lt}}])"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?{_CASED_LETTERS}+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _CJK_KOREAN,
    r"\p{N}+",
)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_SPLIT, r"[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]")
_BLOOM = r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_SEED = rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_GPT2 = Cutting((GPT2_SPLIT,))
_DIGITS = Cutting((r"\p{N}", GPT2_SPLIT))
_LLAMA3 = Cutting((LLAMA3_SPLIT,), whole_words=True, add_bos=True)
_QWEN2 = Cutting((QWEN2_SPLIT,), nfc=True)
_GPT4O = Cutting((_cased(r"\p{N}{1,3}", _SUFFIX + "?"),))
_LLAMA3_MERGES = Cutting((LLAMA3_SPLIT,))

_NAMES: tuple[tuple[Cutting, str], ...] = (
    (Cutting(_DEFAULT), "default"),
    (_GPT2, "gpt-2 gpt2 phi-2 olmo mpt jais mellum gigachat a.x-4.0 exaone4 trillion modern-bert"),
    (_DIGITS, "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    (_LLAMA3, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2"),
    (_LLAMA3_MERGES, "dbrx smaug-bpe chatglm-bpe"),
    (Cutting((LLAMA3_SPLIT,), whole_words=True), "glm4 glm5"),
    (_QWEN2, "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez"),
    (Cutting((QWEN2_SPLIT,)), "stablelm2 hunyuan solar-open grok-2"),
    (Cutting((_words(r"\p{N}", r"[\p{L}\p{M}]"),)), "qwen35"),
    (Cutting((_cased(r"\p{N}", ""),), whole_words=True, add_bos=True), "tekken"),
    (_GPT4O, "gpt-4o llama4 kanana2 minimax-m2"),
    (Cutting(_DEEPSEEK_CODER), "deepseek-coder"),
    (Cutting(_DEEPSEEK_LLM), "deepseek-llm"),
    (Cutting(_DEEPSEEK_V3), "deepseek-v3 hunyuan-dense"),
    (Cutting(_FALCON), "falcon"),
    (Cutting((_BAILING,)), "bailingmoe bailingmoe2 llada-moe"),
    (Cutting((_SEED,)), "seed-coder"),
    (Cutting((_BLOOM,)), "bloom poro-chat gpt3-finnish"),
    (Cutting((_BLOOM, r"\p{N}")), "viking"),
)
CUTTINGS: Mapping[str, Cutting] = {
    name: cutting for cutting, names in _NAMES for name in names.split()
}


def pre_tokenizer(cutting: Cutting) -> pre_tokenizers.PreTokenizer:
    cuts = [pre_tokenizers.Split(Regex(text), "isolated") for text in cutting.expressions]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*cuts, byte_level])


def normalizer(cutting: Cutting) -> normalizers.Normalizer | None:
    return normalizers.NFC() if cutting.nfc else None
