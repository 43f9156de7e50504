const fs = require("fs");
fs.cpSync("public", "dist", {recursive: true});
const parts = fs.readdirSync("src").sort().map((name) => fs.readFileSync("src/" + name, "utf8"));
fs.writeFileSync("dist/app.js", parts.join(""));
