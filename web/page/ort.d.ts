// onnxruntime-web, beside the page.
declare module "*/ort.wasm.min.mjs" {
  export * from "onnxruntime-common";
}
