set -e
echo "greet $1, $2 in $(pwd) as $(id -u)"
echo "mode $MODE, a token of ${#TOKEN} bytes"
[ "$HOME" = /github/home ] && [ -w "$HOME" ] && [ -S /var/run/docker.sock ] &&
    [ -s "$GITHUB_EVENT_PATH" ] && [ -d "$RUNNER_TEMP" ] && echo "paths are GitHub's"
echo "said=hello $INPUT_WHO" >> "$GITHUB_OUTPUT"
echo "FROM_CONTAINER=set" >> "$GITHUB_ENV"
echo "kept=$1" >> "$GITHUB_STATE"
echo "::notice file=/github/workspace/greet/main.sh,line=2::noted"
echo written > from-container
