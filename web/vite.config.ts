import { defineConfig, type Plugin } from "vite";

// Every browser that runs this page reads woff2: KaTeX's other forms of its fonts stay out.
const woff2Only: Plugin = {
  name: "woff2-only",
  enforce: "pre",
  transform(code, id) {
    if (!id.includes("katex.min.css")) return null;
    return code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)/g, "");
  },
};

export default defineConfig({
  plugins: [woff2Only],
  base: "./", // behind a reverse proxy the page may live under a path
  build: {
    outDir: "../src/llamastream/api/web",
    emptyOutDir: true,
    license: { fileName: "assets/licenses.md" }, // of what is bundled
    modulePreload: false,
    assetsInlineLimit: 0, // the page's Content-Security-Policy allows no data: URLs
    target: "es2022",
    rolldownOptions: {
      // The manifest names its icon.
      output: { assetFileNames: ({ names }) => `assets/${names[0] === "icon.svg" ? "[name]" : "[name]-[hash]"}[extname]` },
    },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/health": "http://127.0.0.1:8000" } },
});
