"""Random versions of a photograph that a code should survive, far rougher than those in training.

Cropped, mirrored, rotated, shrunk, grey, dark, pale, blurred, framed, compressed. Near-duplicates
are measured with other, fixed alterations (alterations.py in data).
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps


def distorted(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A part of the image, with a random selection of all distortions."""
    chance, between = generator.random, generator.uniform
    if chance() < 0.85:
        image = _part(image, np.sqrt(between(0.35, 1)), np.exp(between(-0.25, 0.25)), generator)
    if chance() < 0.5:
        image = ImageOps.mirror(image)
    if chance() < 0.3:
        image = image.rotate(between(-10, 10), Image.Resampling.BICUBIC)
    if chance() < 0.35:
        side = int(generator.integers(24, 72))
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    if chance() < 0.3:
        image = image.convert("L").convert("RGB")
    if chance() < 0.5:
        image = ImageEnhance.Brightness(image).enhance(between(0.6, 1.5))
    if chance() < 0.5:
        image = ImageEnhance.Contrast(image).enhance(between(0.5, 1.6))
    if chance() < 0.3:
        image = ImageEnhance.Color(image).enhance(between(0.2, 1.8))
    if chance() < 0.2:
        image = _blurred(image, between(0.003, 0.015))
    if chance() < 0.15:
        border = int(max(image.size) * between(0.03, 0.15))
        image = ImageOps.expand(image, border, "white" if chance() < 0.5 else "black")
    if chance() < 0.3:
        stream = io.BytesIO()
        image.save(stream, "jpeg", quality=int(generator.integers(20, 80)))
        image = Image.open(stream).convert("RGB")
    return image


def out_of_focus(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Nearly the whole image, blurred: of all distortions the one that changes codes most."""
    chance, between = generator.random, generator.uniform
    image = _part(image, between(0.85, 1), 1.0, generator)
    if chance() < 0.3:
        image = ImageOps.mirror(image)
    if chance() < 0.2:
        image = image.convert("L").convert("RGB")
    image = ImageEnhance.Brightness(image).enhance(between(0.7, 1.4))
    return _blurred(image, between(0.004, 0.015))


def cut_out(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A piece of the image on a plain background, as in product photographs."""
    chance, between = generator.random, generator.uniform
    image = _part(image, np.sqrt(between(0.4, 1)), 1.0, generator)
    grounds = [(0, 0, 0), (255, 255, 255), tuple(int(v) for v in generator.integers(0, 256, 3))]
    ground = grounds[generator.choice(3, p=(0.5, 0.3, 0.2))]
    if chance() < 0.2:
        image = ImageOps.invert(image)
    piece = Image.new("RGB", image.size, ground)
    piece.paste(image, mask=_blob(image.size, generator))
    if chance() < 0.5:
        piece = ImageOps.expand(piece, int(max(piece.size) * between(0, 0.3)), ground)
    if chance() < 0.5:
        piece = piece.convert("L").convert("RGB")
    if chance() < 0.5:
        piece = ImageEnhance.Contrast(piece).enhance(between(0.5, 1.8))
    if chance() < 0.5:
        side = int(generator.integers(24, 72))
        piece = piece.resize((side, side), Image.Resampling.BICUBIC)
    if chance() < 0.2:
        piece = _blurred(piece, between(0.003, 0.015))
    return piece


def _blob(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """A mask of an ellipse, or of a polygon with five to nine corners."""
    width, height = size
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    left, top = generator.uniform(0.02, 0.2, 2) * size
    if generator.random() < 0.5:
        draw.ellipse((left, top, width - left, height - top), fill=255)
        return mask
    angles = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(5, 10)))
    reach = generator.uniform(0.6, 1, len(angles))
    x = width / 2 + np.cos(angles) * reach * (width / 2 - left)
    y = height / 2 + np.sin(angles) * reach * (height / 2 - top)
    draw.polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255)
    return mask


def _part(
    image: Image.Image, side: float, aspect: float, generator: np.random.Generator
) -> Image.Image:
    """A random window, `side` times the image's size, stretched by `aspect`."""
    width = min(image.width, max(1, int(image.width * side * aspect)))
    height = min(image.height, max(1, int(image.height * side / aspect)))
    left = int(generator.integers(0, image.width - width + 1))
    top = int(generator.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _blurred(image: Image.Image, share: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) * share))
