"""Keys and passwords that stand in texts: known formats, and words that announce a secret."""

from __future__ import annotations

import math
import re
from collections import Counter

MIN_BITS = 3.0
"""Shannon bits a character below which an announced "secret" is a placeholder or plain words."""

# Formats as their issuers document them; each begins with something that nothing else begins with.
_FORMATS = (
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # AWS access key
    r"gh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub
    r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    r"gl(?:pat|dt|rt|cbt|ptt)-[A-Za-z0-9_-]{20,}",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"https://hooks\.slack\.com/services/T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{20,}",
    r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9_]{10,}",  # Stripe
    r"whsec_[A-Za-z0-9+/=]{24,}",
    r"sk-ant-[A-Za-z0-9_-]{20,}",  # Anthropic
    r"sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,}",  # OpenAI
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"GOCSPX-[A-Za-z0-9_-]{28}",
    r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
    r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}",  # SendGrid
    r"(?:SK|AC)[0-9a-f]{32}",  # Twilio
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,}",
    r"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",  # Shopify
    r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}",  # Square
    r"dapi[0-9a-f]{32}(?:-\d)?",  # Databricks
    r"key-[0-9a-f]{32}",  # Mailgun
    r"[0-9a-f]{32}-us\d{1,2}",  # Mailchimp
    r"lin_api_[A-Za-z0-9]{32,}",  # Linear
    r"figd_[A-Za-z0-9_-]{30,}",
    r"(?:secret|ntn)_[A-Za-z0-9]{40,}",  # Notion
    r"\d{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram bot
    r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}",  # Discord bot
    r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON Web Token
    r"v1\.0-[0-9a-f]{24}-[0-9a-f]{146}",  # Cloudflare
)
KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{'|'.join(_FORMATS)})")
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?!-----).)*(?:-----END [A-Z0-9 ]{0,40}-----)?",
    re.DOTALL,
)
# "api_key = 'abc'", "password: abc", "Authorization: Bearer abc", "AccountKey=abc".
ANNOUNCED = re.compile(
    r"(?:api[ _-]?key|apikey|access[ _-]?key(?:[ _-]?id)?|secret(?:[ _-]?(?:access[ _-]?)?key)?"
    r"|account[ _-]?key|auth[ _-]?token|access[ _-]?token|client[ _-]?secret|bearer)"
    r"\"?'?(?:\s+is)?\s*[:= ]\s*[\"'`]?([A-Za-z0-9_+/=.~-]{16,256})",
    re.IGNORECASE,
)
PASSWORD = re.compile(
    r"\b(?:password|passwd|pwd|passwort|passphrase|mot de passe|contraseña)"
    r"\"?'?\s*(?:is\s*:?|[:=])\s*[\"'`]?([^\s\"'`,;]{6,64})",
    re.IGNORECASE,
)
URL_LOGIN = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:([^\s/@]{3,64})@[\w.-]+", re.I)


def find_secrets(text: str) -> list[tuple[int, int, str]]:
    """(start, end, key | private_key | password) of each secret in a text."""
    found = [(m.start(), m.end(), "private_key") for m in PRIVATE_KEY.finditer(text)]
    found += [(m.start(), m.end(), "key") for m in KEY.finditer(text) if not _is_word(m.group())]
    found += [
        (m.start(1), m.end(1), "key") for m in ANNOUNCED.finditer(text) if looks_random(m.group(1))
    ]
    found += [
        (m.start(1), m.end(1), "password")
        for m in PASSWORD.finditer(text)
        if _is_password(m.group(1).rstrip(".!?)"))
    ]
    found += [(m.start(1), m.end(1), "password") for m in URL_LOGIN.finditer(text)]
    return found


def looks_random(text: str) -> bool:
    """True for text with digits and letters in no order that words have."""
    has_both = any(char.isdigit() for char in text) and any(char.isalpha() for char in text)
    return has_both and bits_a_character(text) >= MIN_BITS


def bits_a_character(text: str) -> float:
    """Shannon entropy of the characters of a text."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values())


def _is_word(text: str) -> bool:
    """sk-learn-like package names and the like: lower-case words joined by hyphens."""
    return text.startswith("sk-") and bool(re.fullmatch(r"sk(?:-[a-z]+)+", text))


def _is_password(text: str) -> bool:
    """A value rather than a word about passwords: "password: is wrong" names none."""
    mixed = any(c.isdigit() for c in text) or any(not c.isalnum() for c in text)
    return mixed and not text.startswith(("<", "*", "{", "$", "[", "(")) and len(set(text)) > 3
