#!/bin/sh
# Record in each lock file the hashes of all files of each pinned version, for every Python and machine.
#
#   sh docker/lock.sh UV LOCK...        # `make lock` calls it
#
# To change a package, edit its `name==version`; its old hashes are replaced. The comments at the
# head of a lock stay. uv asks PyPI, or the index of the variable UV_DEFAULT_INDEX.
set -eu
uv=$1
shift
lock=
trap 'rm -f "$lock.new"' EXIT
for lock; do
    sed -n '/^#/p' "$lock" > "$lock.new"
    sed -n 's/^\([[:alnum:]][^\\]*\).*/\1/p' "$lock" \
        | "$uv" pip compile --quiet --no-config --no-header --no-annotate --no-deps \
            --universal --python-version 3.11 --generate-hashes - >> "$lock.new"
    mv "$lock.new" "$lock"
    echo "$lock: $(grep -c '^[[:alnum:]]' "$lock") packages"
done
