// Decodes an image file in the browser: upright, transparency on white, without colour profiles.

import { draftScale, isJpeg } from "./draft.js";
import { reduce, type Pixels } from "./resize.js";

/** An image file, or an image that the browser has decoded. */
export type Source = Blob | ImageBitmap;

/** The browser cannot decode the file. */
export class DecodeError extends Error {
  override name = "DecodeError";
}

// As in Python.
const MOST_PIXELS = 178_956_970;
// Pixels are read from the browser in strips of about this many; their rows are a multiple of 8, the
// largest factor.
const STRIP_PIXELS = 1 << 21;

/**
 * Decode an image.
 *
 * @param shorterSide that is required of the result, in pixels: of a large JPEG less is computed.
 */
export async function decode(source: Source, shorterSide: number): Promise<Pixels> {
  if (!(source instanceof Blob)) return read(source, 1);
  const head = new Uint8Array(await source.slice(0, 3).arrayBuffer());
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(source, {
      colorSpaceConversion: "none",
      imageOrientation: "from-image",
      premultiplyAlpha: "premultiply",
    });
  } catch {
    throw new DecodeError("this browser cannot decode the file as an image; save it as JPEG or PNG");
  }
  try {
    const { width, height } = bitmap;
    if (width * height > MOST_PIXELS) {
      throw new DecodeError(`${width} x ${height} pixels, the maximum is ${MOST_PIXELS} in total`);
    }
    return read(bitmap, isJpeg(head) ? draftScale(width, height, shorterSide) : 1);
  } finally {
    bitmap.close();
  }
}

// The pixels of an image, shrunk by a whole factor.
function read(bitmap: ImageBitmap, factor: number): Pixels {
  const { width, height } = bitmap;
  const rows = Math.min(Math.max(Math.floor(STRIP_PIXELS / width / 8), 1) * 8, height);
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  if (context === null) throw new DecodeError(`this browser has no canvas of ${width} x ${rows}`);
  const outWidth = Math.ceil(width / factor);
  const outHeight = Math.ceil(height / factor);
  const data = new Uint8Array(3 * outWidth * outHeight);
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -top);
    const strip = rgb(context.getImageData(0, 0, width, count));
    const part = factor > 1 ? reduce(strip, factor, factor) : strip;
    data.set(part.data, (3 * outWidth * top) / factor);
  }
  return { width: outWidth, height: outHeight, data };
}

function rgb(image: ImageData): Pixels {
  const { width, height, data } = image;
  const out = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    out[to++] = data[from]!;
    out[to++] = data[from + 1]!;
    out[to++] = data[from + 2]!;
  }
  return { width, height, data: out };
}
