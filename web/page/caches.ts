// Where the page keeps its files. Names have the page's folder: an origin may hold several pages.

const folder = new URL("./", location.href).href;

/** The model, the gallery and its images. */
export const dataCache = (): Promise<Cache> => caches.open(`bitgaze data ${folder}`);

/** Files of the page itself, as this version of it was built. */
export const shellName = (build: string): string => `bitgaze page ${folder} ${build}`;

/** Whether a cache holds another version of this page. */
export const isOldShell = (name: string, build: string): boolean =>
  name.startsWith(`bitgaze page ${folder} `) && name !== shellName(build);
