"""version: what is installed here, by metadata alone, which image this is, and the image's SBOM."""

from argparse import ArgumentParser, Namespace

from entrypoints.parser import add_format_option


def configure(parser: ArgumentParser) -> None:
    add_format_option(parser, "table", "json")
    parser.add_argument("--sbom", choices=("spdx", "cyclonedx"), help="print the SBOM that lies in this image, and nothing else")


def run(args: Namespace) -> int:
    from entrypoints.bench import identity
    from entrypoints.output import emit_json, table
    from entrypoints.results.codec import encode

    if args.sbom:
        print(identity.sbom(args.sbom), end="")
        return 0
    versions, image = identity.versions(), identity.image()
    if args.format == "json":
        emit_json({"schema": "epbox.version/1", "versions": versions, "image": encode(image), "engine": identity.engine()})
        return 0
    rows = list(versions.items())
    if image is None:
        rows.append(("image", "none: this runs from a checkout"))
    else:
        names = ("name", "id", "recipe", "lock")
        rows += [(f"image {name}", value) for name in names if (value := getattr(image, name))]
        rows += [(f"label {name}", str(value)) for name, value in (image.labels or {}).items()]
    # The one verb whose table is its output: it goes to stdout, so that `epbox --version | grep torch` works.
    print(table(["what", "version"], rows))
    return 0
