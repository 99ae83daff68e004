"""What the words of a card may be: texts of people, links, and names that become files and addresses."""

import re
import unicodedata
from urllib.parse import urlsplit

_JOINERS = "\u200c\u200d"  # Persian and Indian scripts need them, within words
_NOT_SHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MOST_MARKS = 4  # on one letter
RESERVED = r"(con|prn|aux|nul|com[0-9]|lpt[0-9])"  # no folders' names on Windows
NAME = r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?"
HOST = r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
ADDRESS = r"[A-Za-z0-9._~:/?#\[\]@!$&()*+,;=%-]+"
MAILBOX = r"[A-Za-z0-9._%+-]{1,64}"
LONGEST_LINK, _LONGEST_HOST = 300, 190


def text_fault(text: str, longest: int) -> str:
    """Why a text can't be shown on one line as it is; empty if it can."""
    if not text.strip():
        return "it is empty"
    if text != text.strip():
        return "it begins or ends with a blank"
    if len(text) > longest:
        return f"it has {len(text):,} characters, and {longest} are allowed"
    for place, character in enumerate(text):
        around = text[place - 1 : place] + text[place + 1 : place + 2]
        joins = character in _JOINERS and len(around) == 2 and not (around[0] + around[1]).isascii()
        unseen = unicodedata.category(character) in _NOT_SHOWN and not joins
        if unseen or (character.isspace() and character != " "):
            name = unicodedata.name(character, "a control or private character")
            return f"it holds U+{ord(character):04X} ({name})"
    if not unicodedata.is_normalized("NFC", text):
        return "it is not in Unicode's normal form NFC"
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > _MOST_MARKS:
            return f"a letter has more than {_MOST_MARKS} accents"
    return ""


def name_fault(name: str) -> str:
    """Why a system can't have a name, which is a folder's and a page's; empty if it can."""
    if not re.fullmatch(NAME, name):
        return "it is not 1 to 64 of a-z, 0-9 and hyphens, with none at its ends"
    if re.fullmatch(RESERVED, name):
        return "Windows can't have a folder of this name"
    return ""


def link_fault(link: str) -> str:
    """Why a link can't be shown; empty if it can."""
    if len(link) > LONGEST_LINK:
        return f"it has {len(link):,} characters, and {LONGEST_LINK} are allowed"
    if not link.startswith("https://"):
        return "it does not begin with https://"
    if not re.fullmatch(ADDRESS, link):
        return "it holds characters that an address must not have"
    try:
        parts = urlsplit(link)
        port = parts.port
    except ValueError:
        return "it is no address"
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        return "it names a user before the host"
    if port is not None or ":" in parts.netloc:
        return "it names a port"
    return _host_fault(parts.netloc)


def contact_fault(contact: str) -> str:
    """Why nobody could be reached by a contact; empty if somebody could."""
    if contact.startswith("https://"):
        return link_fault(contact)
    mailbox, _, host = contact.partition("@")
    if not re.fullmatch(MAILBOX, mailbox) or not host or len(host) > _LONGEST_HOST:
        return "it is no mail address and no https link"
    return _host_fault(host)


def _host_fault(host: str) -> str:
    if not re.fullmatch(HOST, host):
        return "it names no host such as example.org"
    if any(part.lower().startswith("xn--") for part in host.split(".")):
        return "the host's name is in another alphabet (punycode)"
    return ""
