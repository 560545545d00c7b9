// esbuild puts the content of a .wasm file into the bundle.
declare module "*.wasm" {
  const content: Uint8Array;
  export default content;
}
