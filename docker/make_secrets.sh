#!/bin/sh
# Writes the secrets of compose.yaml into a directory; keeps the files that are there.
#
#     sh docker/make_secrets.sh docker/secrets
set -eu
umask 077
directory=$1
mkdir -p "$directory"
cd "$directory"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
hash() { printf %s "$1" | sha256sum | cut -d' ' -f1; }

if [ ! -e postgres_password ]; then
    random > postgres_password
    printf 'postgresql+psycopg://tempo:%s@postgres/tempo' "$(cat postgres_password)" > tempo_database_url
fi
if [ ! -e tempo_vllm_api_key ]; then
    random > tempo_vllm_api_key
fi
if [ ! -e valkey_users ]; then
    server=$(random)
    worker=$(random)
    printf 'redis://server:%s@valkey:6379/0' "$server" > server_redis_url
    printf 'redis://worker:%s@valkey:6379/0' "$worker" > worker_redis_url
    # The server appends questions and rings, and sees how old the oldest question is. The worker
    # reads both, and keeps RQ's records of its jobs. Both erase questions: they write the stream and
    # Valkey's file anew. Neither may do anything else.
    cat > valkey_users <<EOF
user default off
user health on nopass resetkeys resetchannels -@all +ping
user server on #$(hash "$server") resetkeys ~tempo:questions %R~tempo:questions:moved %W~rq:job:* %W~rq:queue:tempo %W~rq:queues resetchannels -@all +ping +client|setinfo +multi +exec +discard +info +time +xadd +xlen +xrange +exists +hset +expire +sadd +rpush +config|get +unwatch +bgrewriteaof (~tempo:questions +watch +unlink +xgroup|create)
user worker on #$(hash "$worker") resetkeys ~tempo:questions ~rq:job:* ~rq:queue:tempo resetchannels &rq:pubsub:* -@all +ping +client|setinfo +client|setname +client|info +multi +exec +discard +watch +unwatch +info +time +xlen +xrange +xreadgroup +xgroup|create +xack +xdel +blpop +lrange +llen +unlink +hstrlen +hget +psubscribe +punsubscribe +bgrewriteaof (~tempo:questions +xadd) (~tempo:questions:moved +set +exists) (~rq:* +del +exists +expire +hincrby +hincrbyfloat +hset +lrem +persist +sadd +smembers +srem +watch +xadd +zadd +zrem)
EOF
fi
# The containers run as other users; the directory keeps the users of this machine out.
chmod 444 -- *
chmod 700 .
