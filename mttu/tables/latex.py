"""Plain text as LaTeX: a line of ASCII that every engine and font encoding sets, whatever a system is called."""

import unicodedata

_GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "η": "eta", "θ": "theta"},  # noqa: RUF001
    **{"κ": "kappa", "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi"},  # noqa: RUF001
    **{"χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Σ": "Sigma", "Φ": "Phi", "Ω": "Omega"},
}
_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "%&_#${}"},
    **{sign: f"${sign}$" for sign in "<>|"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # after a line's end, they would be its arguments
    **{sign: f"$\\{name}$" for sign, name in _GREEK.items()},
    **{"\\": r"$\backslash$", "~": r"$\sim$", "^": r"\^{}", '"': "''", "`": r"\`{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "µ": r"$\mu$"},  # noqa: RUF001
    **{"†": r"$\dagger$", "−": "$-$", "–": "--", "—": "---", "‘": r"`", "’": "'", "“": "``", "”": "''"},  # noqa: RUF001
    **{"ß": r"{\ss}", "æ": r"{\ae}", "Æ": r"{\AE}", "ø": r"{\o}", "Ø": r"{\O}", "ł": r"{\l}", "Ł": r"{\L}"},
    **{"°": r"$^{\circ}$", "²": "$^{2}$", "³": "$^{3}$"},
}
_ACCENTS = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": "."},
    **{"\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c"},
}
"""Combining character to its command."""


def escape_latex(text: str) -> str:
    """The text on one line; a character that pdfLaTeX cannot set without further packages is named, as `U+4E2D`."""
    return "".join(map(_spell, unicodedata.normalize("NFC", " ".join(text.split()))))


def _spell(sign: str) -> str:
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    if sign.isascii() and sign.isprintable():
        return sign
    base, accents = (parts := unicodedata.normalize("NFD", sign))[0], parts[1:]
    if base.isascii() and accents in _ACCENTS:
        return rf"\{_ACCENTS[accents]}{{{base}}}"
    return f"U+{ord(sign):04X}"
