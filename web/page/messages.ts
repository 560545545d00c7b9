// What the page and its worker say to each other.

import type { Box } from "../src/looks.js";

/** What `bitgaze export-web` writes to site.json. */
export interface Site {
  readonly name: string;
  readonly items: number;
  /** Of every file: its length in bytes and its digest. */
  readonly files: Readonly<Record<string, readonly [number, string]>>;
}

export type Request =
  | { readonly op: "open" }
  | { readonly op: "browse"; readonly count: number }
  | { readonly op: "search"; readonly image: Blob | ImageBitmap; readonly k: number }
  | { readonly op: "like"; readonly slot: number; readonly k: number };

export interface Opened {
  readonly name: string;
  readonly items: number;
  readonly bits: number;
  readonly threads: number;
  /** Whether all is stored for use without a network. */
  readonly isStored: boolean;
}

export interface Shown {
  readonly slot: number;
  readonly key: string;
  readonly metadata: Readonly<Record<string, unknown>>;
  /** A JPEG, or null. */
  readonly thumbnail: Blob | null;
}

export interface Found extends Shown {
  readonly distance: number;
  readonly sameKind: number | null;
  readonly box: Box | null;
  readonly queryBox: Box | null;
}

export interface Searched {
  readonly hits: readonly Found[];
  /** Of the item that was searched from; null for an image of the person's own. */
  readonly query: { readonly key: string; readonly thumbnail: Blob | null } | null;
  readonly encodeMs: number;
  readonly searchMs: number;
}

export type Result = Opened | readonly Shown[] | Searched;

export type Reply =
  | { readonly id: number; readonly result: Result }
  | { readonly id: number; readonly error: string }
  | { readonly done: number; readonly total: number };
