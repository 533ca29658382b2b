#!/usr/bin/env bash
# Calls every endpoint of the REST contract with curl, and prints each command and its answer.
#
#   examples/walkthrough.sh [base URL]        default: $BASE_URL, or http://127.0.0.1:8000
#
# If the service requires tokens, TOKEN must be one with the scopes progress:any and analytics.
# It exits with an error at the first answer whose status is not the expected one.
set -euo pipefail

base=${1:-${BASE_URL:-http://127.0.0.1:8000}}
base=${base%/}

# A learner and two videos for this run only, so that it can be run again.
uuid() { python3 -c 'import uuid; print(uuid.uuid4())'; }
user=$(uuid) sets=$(uuid) maps=$(uuid)
yesterday=$(date -u -d yesterday +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -v-1d +%Y-%m-%dT%H:%M:%SZ)

chapter() { printf '\n# %s\n' "$1"; }

# call STATUS METHOD PATH [BODY]
call() {
    local expected=$1 method=$2 path=$3 answer status
    local command=(curl --silent --show-error --max-time 20 --request "$method" "$base$path" ${TOKEN:+--header "Authorization: Bearer $TOKEN"})
    if [ $# -gt 3 ]; then
        command+=(--header 'Content-Type: application/json' --data "$4")
        printf "\n$ curl -X %s %s -H 'Content-Type: application/json' -d '%s'\n" "$method" "$base$path" "$4"
    else
        printf '\n$ curl -X %s %s\n' "$method" "$base$path"
    fi
    answer=$("${command[@]}" --write-out '\n%{http_code}')
    status=${answer##*$'\n'}
    printf '%s %s\n' "$status" "${answer%$'\n'*}"
    if [ "$status" != "$expected" ]; then
        printf 'walkthrough: %s %s answered %s, not %s\n' "$method" "$path" "$status" "$expected" >&2
        exit 1
    fi
}

chapter 'The catalogue holds the duration of a video, which completion is measured by'
call 200 PUT "/videos/$sets" '{"title": "Sets", "duration": 600}'

chapter '1. Update progress: the answer is the stored record'
call 200 POST /progress/update \
    "{\"userId\": \"$user\", \"videoId\": \"$sets\", \"watchedDuration\": 120, \"lastWatched\": \"$yesterday\"}"

chapter '2. Get progress'
call 200 GET "/progress/$user/$sets"
call 200 GET "/progress/$user/$sets?detail=full"

chapter '3. Sync progress: reports of another device are merged, and progress never decreases'
call 200 POST /progress/sync \
    "{\"userId\": \"$user\", \"progressData\": [
    {\"videoId\": \"$sets\", \"watchedDuration\": 60, \"lastWatched\": \"$yesterday\"},
    {\"videoId\": \"$maps\", \"watchedDuration\": 45, \"lastWatched\": \"$yesterday\"}]}"

chapter '4. Get all progress of a learner, newest first'
call 200 GET "/progress/$user"

chapter '8. Real-time updates: the documented body, or heartbeats as on the WebSocket, with the seconds played'
call 200 POST /progress/realtime \
    "{\"userId\": \"$user\", \"videoId\": \"$sets\", \"watchedDuration\": 180, \"lastWatched\": \"$yesterday\"}"
call 200 POST /progress/realtime \
    "{\"userId\": \"$user\", \"session\": \"walkthrough\", \"heartbeats\": [
    {\"seq\": 1, \"videoId\": \"$maps\", \"played\": [[0, 50]], \"position\": 50, \"state\": \"playing\"},
    {\"seq\": 2, \"videoId\": \"$maps\", \"played\": [[50, 55]], \"position\": 55, \"state\": \"paused\"}]}"

chapter '6. Get the summary of a video'
call 200 GET "/progress/summary/$sets"

chapter '7. Get the engagement of a learner'
call 200 GET "/progress/engagement/$user"

chapter '5. Delete progress: earlier progress stays deleted, even if a device reports it later'
call 200 DELETE "/progress/$user/$sets"
call 404 GET "/progress/$user/$sets"
call 409 POST /progress/update \
    "{\"userId\": \"$user\", \"videoId\": \"$sets\", \"watchedDuration\": 600, \"lastWatched\": \"$yesterday\"}"

chapter 'An invalid request is answered with the invalid field'
call 422 POST /progress/update \
    "{\"userId\": \"$user\", \"videoId\": \"$sets\", \"watchedDuration\": \"180\", \"lastWatched\": \"$yesterday\"}"

printf '\nAll answers were as expected.\n'
