# syntax=docker/dockerfile:1
#
# An image that holds one static program and nothing else: no shell, no package manager, no user
# database.
#
#   docker build -t countersign .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     -v ./config/sidecar.toml:/etc/countersign/countersign.toml:ro \
#     -v ./config/example-secrets:/run/secrets:ro countersign
#
# --read-only --tmpfs /tmp: nothing is ever written but content beyond limits.memory_per_request that
# has to be held, as for a signature; it is spooled to files without a name in the temporary
# directory. Size the tmpfs by the largest content that routes take, or point limits.spool_directory
# at a volume.
#
# Secrets come from files under /run/secrets, as { file = "/run/secrets/NAME" } in the configuration.
# They have to be readable by the user below, and if every user can read them, as with most ways to
# mount them, say check_permissions = false. A changed file is picked up within seconds.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Static against glibc. From version 2.34 on (bookworm has 2.36) a static glibc resolves names by the
# hosts file and by DNS on its own, without loading modules, so that an empty image is enough.
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(rustc -vV | sed -n 's/^host: //p')
# What the final image consists of: the program, and an empty directory for temporary files.
RUN mkdir -p /image && install -d -m 1777 /image/tmp && cp target/*/release/countersign /image/

# There are no certificate files in here. The program then uses the list of public authorities that is
# built into it; a private authority is named in the configuration (tls = { ca = "…" }).
FROM scratch
COPY --from=build /image /
# By number: there is no /etc/passwd to look a name up in.
USER 65532:65532
EXPOSE 8080
# Asks the admin listener, which the configuration has to put on 127.0.0.1:8081.
HEALTHCHECK --interval=10s --timeout=6s --start-period=15s --retries=3 CMD ["/countersign", "healthcheck"]
ENTRYPOINT ["/countersign"]
CMD ["run", "--config", "/etc/countersign/countersign.toml"]
