// bitgaze in JavaScript: encode images, open a gallery, search it. In browsers, workers and Node.

export { DecodeError, type Source } from "./decode.js";
export { encode, type Encoded, type EncodeOptions } from "./encode.js";
export { openFlat, type Adaptation, type FlatGallery, type Item } from "./flat.js";
export type { Box } from "./looks.js";
export {
  FormatError,
  openModel,
  type Calibration,
  type Contract,
  type Model,
  type Runtime,
} from "./model.js";
export type { Pixels } from "./resize.js";
export { queryOf, search, type Hit, type Query, type SearchOptions } from "./search.js";
