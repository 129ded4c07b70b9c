"""How well text can be told from what is behind it (WCAG 2.2, relative luminance and contrast ratio)."""

import re

LEAST = 4.5  # of text (1.4.3, level AA)
Colour = tuple[float, float, float]  # 0 to 255


def luminance(colour: Colour) -> float:
    """0.2126 R + 0.7152 G + 0.0722 B of the linear components."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """(L + 0.05) / (L' + 0.05), the lighter one above: 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def over(tint: tuple[float, float, float, float], behind: Colour) -> Colour:
    """What is seen of a colour that lets through what is behind it."""
    *colour, opacity = tint
    red, green, blue = (opacity * x + (1 - opacity) * y for x, y in zip(colour, behind, strict=True))
    return red, green, blue


def schemes(page: str) -> tuple[dict[str, Colour], dict[str, Colour]]:
    """A page's colours by name, in light and in dark."""
    light, dark = (
        {name: of_hex(value) for name, value in re.findall(r"--(\w+): #([0-9a-f]{6})", block)}
        for block in re.findall(r":root \{(.*?)\}", page)
    )
    return light, light | dark


def of_hex(value: str) -> Colour:
    """From six digits."""
    red, green, blue = (int(value[i : i + 2], 16) for i in (0, 2, 4))
    return red, green, blue
