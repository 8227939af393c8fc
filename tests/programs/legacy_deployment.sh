#!/bin/sh
# What is run before a simulation: a topic whose events are in a database and in a file, and a first look at it.
set -eu
group_file=$1
storage=$2

eval "$(bedrockctl activate "flock://$group_file")"
bedrockctl status
bedrockctl module load libwarabi-bedrock-module.so

mofkactl topic create simulation --groupfile "$group_file" \
    --validator schema --validator.schema.type object \
    --validator.schema.required step --validator.schema.required residual
metadata=$(mofkactl metadata add --rank 0 --groupfile "$group_file" \
    --type rocksdb --config.path "$storage/metadata" --config.create_if_missing true)
data=$(mofkactl data add --rank 0 --groupfile "$group_file" \
    --type abtio --config.path "$storage/data" --config.create_if_missing true)
mofkactl partition add simulation --rank 0 --groupfile "$group_file" \
    --type legacy --pool __primary__ --metadata "$metadata" --data "$data"
mofkactl topic list --groupfile "$group_file" | grep -qx simulation
bedrockctl provider list | grep -q mofka

if mofkactl partition add simulation --rank 99 --groupfile "$group_file" 2>/dev/null; then
    echo "a server that there is not has a partition" >&2
    exit 1
fi
echo deployed
