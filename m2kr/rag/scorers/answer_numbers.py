"""The numbers in an answer, however they are written, and the range that it names."""

import math
import re
import unicodedata

Range = tuple[float, float]

_MINUS = str.maketrans(
    dict.fromkeys("−﹣－⁻‐‑", "-") | dict.fromkeys("–—‒―", "–") | dict.fromkeys("～〜", "~")
)
_THIN = "\u00a0\u2007\u2008\u2009\u202f"  # blanks that are written between groups of digits
_NUMBER = re.compile(
    rf"""
      (?<![\w.,])10\s?(?:\^|\*\*)\s?\(?[-+]?\d{{1,3}}\)?       # 10^6
    | (?:
        [1-9]\d{{0,2}}(?:,\d{{3}})+(?![\d,])(?:\.\d+)?       # 1,234,567.8
      | [1-9]\d?(?:,\d\d)+,\d{{3}}(?![\d,])(?:\.\d+)?         # 12,34,567 as in India
      | [1-9]\d{{0,2}}(?:\.\d{{3}})+,\d+                      # 1.234,5
      | [1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}}(?![\d.])            # 1.234.567
      | [1-9]\d{{0,2}}(?:['’][0-9]{{3}})+(?!\d)(?:\.\d+)?     # 1'234'567
      | [1-9]\d{{0,2}}(?:[{_THIN}]\d{{3}})+(?!\d)(?:[.,]\d+)? # 1 234 with a blank that doesn't break
      | [1-9]\d{{0,2}}(?:[ ]\d{{3}}){{2,}}(?!\d)              # 1 234 567 with plain ones
      | [1-9]\d{{0,2}}[ ]0\d\d(?![\d.,])                        # 2 000
      | \d+,\d{{1,2}}(?![\d,])                                # 1,5
      | 0,\d+(?![\d,])                                        # 0,125
      | \d+(?:,\d+)+                                          # what else has commas is without them
      | \d+(?:\.\d+)?
      | (?<![\w.,])\.\d+
      )
      (?:
        [eE][-+]?\d{{1,3}}(?!\d)
      | \s?[x×·*]\s?10\s?(?:\^|\*\*)\s?\(?[-+]?\d{{1,3}}\)?
      )?
    """,
    re.VERBOSE,
)
_SCIENTIFIC = re.compile(r"(?:\s?[x×·*]\s?)?10\s?(?:\^|\*\*)\s?\(?([-+]?\d+)\)?$")
_SIGN = re.compile(r"(?:^|(?<=[^\w.)\]}°]))[-–](?:\s?[$€£¥₹])?$")
_AFTER_NUMBER = (
    f"$€£¥₹%°'\"’”′″* {_THIN}"  # signs of units, and what closes a quotation or emphasis
)
_MINUS_APART = re.compile(r"(?<![\d\s])(?<!\d\s)−\s+(?=\d)")
_NEGATIVE = re.compile(r"\b(?:minus|negative)\s$", re.IGNORECASE)
_SCALE = re.compile(
    r"[\s-]?(hundred|thousand|million|billion|trillion|mln|mn|bn|dozen)s?\b", re.IGNORECASE
)
_SCALES = {
    "k": 1e3,
    "hundred": 1e2,
    "dozen": 12.0,
    "thousand": 1e3,
    **dict.fromkeys(("million", "mln", "mn"), 1e6),
    **dict.fromkeys(("billion", "bn"), 1e9),
    "trillion": 1e12,
}
_JOINED = re.compile(r"\s?(?:[-–~]|to|and|or|until|through|\.{2,3}|…)\s?", re.IGNORECASE)
_FRACTION = re.compile(r"(?<![\w/.,⁄])(?:(\d+)(?:\s+|-))?(\d+)\s?[/⁄]\s?(\d+)(?![\d/⁄]|[.,]\d)")
_SUPERSCRIPTS = re.compile("(10\\s?)?([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_DEVIATION = re.compile(r"(?<=[\w%])\s?±.*", re.DOTALL)
_READ = 4000  # characters of an answer
_LOOK_BACK = 40  # characters that tell a number's sign
_LONGEST = 300  # digits; a number that is longer is none of an answer's

_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_UNITS = _TO_NINETEEN.split()
_TO_NINETY = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: float(n) for n, word in enumerate(_UNITS)}
_WORDS |= {word: 10.0 * n for n, word in enumerate(_TO_NINETY.split(), 2)}
_BEFORE = frozenset(
    (
        "about",
        "around",
        "approximately",
        "roughly",
        "nearly",
        "almost",
        "over",
        "under",
        "between",
        "from",
    )
)
_MOST_WORDS_AFTER = 2


def answer_numbers(text: str) -> tuple[float, ...]:
    """The numbers that an answer names, in its order.

    - ``1,234,567.8``, ``12,34,567``, ``1.234.567``, ``1.234,5``, ``1'234``, ``1 234 567``: groups of digits.
      One group after a point (``1.234``) is a decimal fraction, one after a plain blank (``1 234``) a number
      of its own, unless it begins with 0 (``2 000``); after a blank that doesn't break it is a group.
    - ``1,5``, ``0,125``: a comma before one or two digits, or after a single 0, is a decimal comma.
    - ``-5``, ``−5``, ``–5``, ``minus 5``, ``-$5``: a sign is one only at the beginning of a word, and not
      after a number and its unit's sign: ``1990-2005``, ``5 -10`` and ``5 €–10 €`` are two numbers each,
      neither below 0; ``−40–−20`` are two below 0.
    - ``1.5e6``, ``1.5 x 10^6``, ``10⁶``; ``1.5 million``, ``2-3 thousand`` (both), ``5k``.
    - ``½``, ``2½``, ``3 1/2``, ``3/4``: proper fractions alone; ``24/7`` is two numbers.
    - Units, currencies, per cent, ``about``, ordinals' endings and other words are passed over; so are digits
      within a word (``km2``, ``CO2``) where there are others, raised ones (``km²``), what follows ``±``, and
      what stands in brackets after a number (``324 m (1,063 ft)``).
    - Of a long answer the first 4,000 characters are read.
    - Words, where there are no digits and the answer is little else: ``seven``, ``about twenty-one years``,
      ``two million``, ``five and a half metres``, ``twenty to thirty``, ``minus five``.

    Example:
        >>> answer_numbers("between 1,200 and 1.5 thousand km²")
        (1200.0, 1500.0)
    """
    plain = _plain_signs(text[:_READ])
    outside = _ASIDE.sub(" ", plain)
    for part, within_words in ((outside, False), (plain, False), (plain, True)):
        if numbers := _digits(part, within_words=within_words):
            return numbers
    return _in_words(plain)


def answer_range(text: str) -> Range | None:
    """The least and the greatest number that an answer means; equal ones if it names one number.

    The first two numbers are a range if the second is not below the first, else the first stands alone:
    the official reading. None of no number, where the official scorer takes it for 0.

    Example:
        >>> answer_range("from 5 to 7 years"), answer_range("7"), answer_range("unknown")
        ((5.0, 7.0), (7.0, 7.0), None)
    """
    first, *more = answer_numbers(text)[:2] or (None,)
    if first is None:
        return None
    return (first, more[0]) if more and more[0] >= first else (first, first)


def _plain_signs(text: str) -> str:
    """The text with signs, fractions and powers in the few forms that are read."""
    text = _SUPERSCRIPTS.sub(
        lambda m: f"10^{unicodedata.normalize('NFKC', m[2])}" if m[1] else "°", text
    )
    text = "".join(
        f" {unicodedata.normalize('NFKC', c)}"
        if unicodedata.decomposition(c).startswith("<fraction>")
        else c
        for c in _MINUS_APART.sub("-", text).translate(_MINUS)
    )
    text = _FRACTION.sub(_as_decimal, _DEVIATION.sub("", text))
    return re.sub(r"[^\S\u00a0\u2007\u2008\u2009\u202f]+", " ", text).strip()


def _as_decimal(match: re.Match[str]) -> str:
    whole, part, of = match.groups()
    if len(of) > 3 or int(part) >= int(of):
        return match[0]
    return repr(int(whole or 0) + int(part) / int(of))


def _digits(text: str, *, within_words: bool) -> tuple[float, ...]:
    numbers: list[float] = []
    end, unscaled = 0, False
    for match in _NUMBER.finditer(text):
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if (before[-1:].isalpha() and not within_words) or len(match[0]) > _LONGEST:
            continue
        value = _value(match[0])
        if _is_negative(before):
            value = -value
        scale = _scale(text[match.end() :], match[0])
        # As of "2-3 million".
        if (
            numbers
            and unscaled
            and scale > 1
            and numbers[-1] <= value
            and _JOINED.fullmatch(text[end : match.start()].rstrip("$€£¥₹"))
        ):
            numbers[-1] *= scale
        if math.isfinite(value * scale):
            numbers.append(value * scale)
            end, unscaled = match.end(), scale == 1
    return tuple(numbers)


def _is_negative(before: str) -> bool:
    if _NEGATIVE.search(before):
        return True
    sign = _SIGN.search(before)
    return sign is not None and not before[: sign.start()].rstrip(_AFTER_NUMBER)[-1:].isdigit()


def _value(number: str) -> float:
    """A number as `_NUMBER` matches it."""
    power = _SCIENTIFIC.search(number)
    mantissa = number[: power.start()] if power else number
    factor = 10.0 ** int(power[1]) if power else 1.0
    digits = re.sub(rf"['’ {_THIN}]", "", mantissa)
    if re.fullmatch(r"\d+,\d{1,2}|0,\d+", digits) or re.fullmatch(r"\d+(\.\d{3})+,\d+", digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif digits.count(".") > 1:
        digits = digits.replace(".", "")
    return float(digits.replace(",", "") or 1) * factor


def _scale(after: str, number: str) -> float:
    if after[:1] == "k" and not after[1:2].isalnum() and number[-1].isdigit():
        return _SCALES["k"]
    scale, end = 1.0, 0
    while word := _SCALE.match(after, end):  # "thousand million"
        scale, end = scale * _SCALES[word[1].lower()], word.end()
    return scale


def _in_words(text: str) -> tuple[float, ...]:
    """Numbers written as words at the beginning of a text that says little more."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    while words and words[0] in _BEFORE:
        words = words[1:]
    if words and words[0] in ("minus", "negative"):
        below = _leading_number(words[1:])
        return (-below[0],) if below and len(below[1]) <= _MOST_WORDS_AFTER else ()
    numbers: list[float] = []
    while len(numbers) < 2 and (parsed := _leading_number(words)):
        number, words = parsed
        numbers.append(number)
        if not words or words[0] not in ("to", "or", "and"):
            break
        words = words[1:]
    return tuple(numbers) if len(words) <= _MOST_WORDS_AFTER else ()


def _leading_number(words: list[str]) -> tuple[float, list[str]] | None:
    """The number that some words begin with, and the words after it."""
    total, part, used = 0.0, 0.0, 0
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if word in _WORDS and not (used and part % 10 and part < 20):
            if used and word in _UNITS and 0 < part % 100 < 20:
                break
            part += _WORDS[word]
        elif word in ("a", "an") and not used and following in _SCALES:
            part = 1.0
        elif word in _SCALES and word != "k" and used:
            part = (part or 1.0) * _SCALES[word]
            if _SCALES[word] > 100:
                total, part = total + part, 0.0
        elif word == "and" and used and words[place + 1 : place + 3] == ["a", "half"]:
            return total + part + 0.5, words[place + 3 :]
        elif word == "and" and used and words[place - 1] in _SCALES and following in _WORDS:
            pass
        else:
            break
        used = place + 1
    return (total + part, words[used:]) if used else None
