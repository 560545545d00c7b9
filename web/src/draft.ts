// A large JPEG as libjpeg decodes it at 1/2, 1/4 or 1/8 of its size, which Python does.
//
// libjpeg makes smaller blocks of the coefficients of 8 x 8 pixels. It leaves out exactly the terms
// that vanish in means of 2 x 2, 4 x 4 or 8 x 8 of the pixels (jidctred.c), so means of what the
// browser has decoded are the same, apart from rounding, and colour at half the resolution.

import { roundEven } from "./numbers.js";

// Pillow decodes no smaller than this multiple of what it is asked for.
const REDUCING_GAP = 2;

/** Whether a file that starts so is a JPEG. */
export function isJpeg(head: Uint8Array): boolean {
  return head[0] === 0xff && head[1] === 0xd8 && head[2] === 0xff;
}

/** By which factor Python's `Image.draft` shrinks a JPEG: 1, 2, 4 or 8. */
export function draftScale(width: number, height: number, shorterSide: number): number {
  const scale = (REDUCING_GAP * shorterSide) / Math.min(width, height);
  if (!(scale < 1)) return 1;
  const fitting = Math.min(
    Math.floor(width / roundEven(width * scale)),
    Math.floor(height / roundEven(height * scale)),
  );
  return [8, 4, 2].find((factor) => fitting >= factor) ?? 1;
}
