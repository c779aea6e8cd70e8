import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // behind a reverse proxy the page may live under a path
  build: {
    outDir: "../src/llamastream/api/web",
    emptyOutDir: true,
    modulePreload: false,
    assetsInlineLimit: 0, // the page's Content-Security-Policy allows no data: URLs
    target: "es2022",
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/health": "http://127.0.0.1:8000" } },
});
