"""Verifies the signature of the model in an image; a build action of the image.

The signature is an output of the action, so no image can be built around an unsigned model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.files import write_whole
from common.model.signature import PublicKey, SignatureError, verify


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("model", type=Path)
    add("--signature", type=Path, required=True, help="as `registry pull` wrote it")
    add("--key", required=True, help="file of the public key")
    add("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    signature = options.signature.read_bytes()
    try:
        verify(options.model.read_bytes(), signature, PublicKey.find(options.key))
    except SignatureError as exc:
        sys.stderr.write(
            f"{options.model}: {exc}. --//serve:model, --//serve:model_signature and "
            "--//serve:model_key name the model, its signature and the public key\n"
        )
        return 1
    write_whole(options.output, signature)
    return 0


if __name__ == "__main__":
    sys.exit(main())
