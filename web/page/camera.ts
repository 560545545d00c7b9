// The camera: what it sees now, to be searched for.

import { byId } from "./dom.js";

/** Let a person take a picture; null if they cancel. Throws what the browser says of no camera. */
export async function takePicture(): Promise<ImageBitmap | null> {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } },
    audio: false,
  });
  const dialog = byId<HTMLDialogElement>("viewfinder");
  const video = byId<HTMLVideoElement>("video");
  const closed = new AbortController();
  const { signal } = closed;
  try {
    video.srcObject = stream;
    dialog.showModal();
    return await new Promise<ImageBitmap | null>((resolve) => {
      const on = (target: EventTarget, name: string, action: () => void): void =>
        target.addEventListener(name, action, { signal });
      on(byId("shutter"), "click", () => {
        if (video.videoWidth > 0) resolve(createImageBitmap(video));
      });
      on(byId("viewfinder-close"), "click", () => resolve(null));
      on(dialog, "close", () => resolve(null));
    });
  } finally {
    closed.abort();
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    dialog.close();
  }
}

/** An image as a file that a page can show. */
export async function asJpeg(image: ImageBitmap): Promise<Blob> {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d")!.drawImage(image, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}
