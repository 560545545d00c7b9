#!/bin/sh
# What `make demo` runs: index a folder, search it, and say where the page lies.
#
#   BITGAZE=path/to/bitgaze demo.sh PHOTOS [QUERY]
#
# Without QUERY: an example picture that the gallery does not hold, or one of your own PHOTOS.
set -eu
photos=$1
query=${2:-}
case $photos in "~"*) photos=$HOME${photos#"~"} ;; esac
if [ -z "$query" ] && [ "$photos" = examples/pictures ]; then
    query=examples/queries/mausoleum.jpg
elif [ -z "$query" ]; then
    query=$(find "$photos" -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' \
        -o -iname '*.webp' \) | sort | head -n 1)
fi
[ -n "$query" ] || { echo "demo: no picture found in $photos" >&2; exit 2; }

# One gallery per folder, kept: the next run only looks at what is new.
gallery=demo/$(basename "$photos").bitgaze
page=demo/$(basename "$photos").html
status=0
"$BITGAZE" index "$photos" -g "$gallery" || status=$?
[ "$status" -le 1 ] || exit "$status" # 1: some pictures were refused, and named

echo
echo "Pictures like $query (bits that differ, picture):"
"$BITGAZE" search "$query" -g "$gallery" --html "$page"
