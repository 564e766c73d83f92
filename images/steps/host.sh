# shellcheck shell=sh
# Sourced by the other steps: lets the build host's proxies, CA bundle and package mirrors work for one RUN.
# Everything comes from secrets below /run, a tmpfs during the step; nothing of it is written into the image.
secrets=/run/secrets

if [ -s "$secrets/host.env" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$secrets/host.env"
    set +a
fi
if [ -s "$secrets/ca.pem" ]; then
    export SSL_CERT_FILE=$secrets/ca.pem PIP_CERT=$secrets/ca.pem REQUESTS_CA_BUNDLE=$secrets/ca.pem
    export CURL_CA_BUNDLE=$secrets/ca.pem GIT_SSL_CAINFO=$secrets/ca.pem
fi
if [ -s "$secrets/apt.conf" ]; then
    export APT_CONFIG=$secrets/apt.conf
fi
if [ -s "$secrets/pip.conf" ]; then
    export PIP_CONFIG_FILE=$secrets/pip.conf
fi
