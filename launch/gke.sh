#!/usr/bin/env bash
# Makes a Kubernetes JobSet of the main job on a TPU slice of GKE. Exit code 75 (preempted, saved) and evictions start a
# pod again and count as nothing; any other failure starts all of them again, ten times at most.
#   docker build --target train --build-arg ACCELERATOR=tpu -t <image> . && docker push <image>     # the Dockerfile here
#   IMAGE=<image> bash launch/gke.sh --config=configs/pgda.py:files,swin_b --workdir=/runs/one ...
# --dry-run prints the manifest only. A new run needs a new NAME: Kubernetes changes no job that is there.
# NAME, ACCELERATOR, TOPOLOGY, HOSTS, CHIPS (a host) and CLAIM (a shared volume, mounted at /runs) have defaults below.
set -eu
. "$(dirname "$0")/help.sh"
. "$(dirname "$0")/arguments.sh"
whole HOSTS; whole CHIPS
[ -n "${IMAGE:-}" ] || { echo "error: name an image of this repository's Dockerfile (--target train): IMAGE=<image> bash launch/gke.sh ..." >&2; exit 2; }
arguments=
for argument in "${job[@]}"; do
  # JSON's strings are YAML's.
  escaped=${argument//\\/\\\\}; arguments+=", \"${escaped//\"/\\\"}\""
done
manifest() {
  cat << YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: ${NAME:-date-jax}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: 10
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          parallelism: ${HOSTS:-4}
          completions: ${HOSTS:-4}
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: Ignore
                onExitCodes: {containerName: main, operator: In, values: [75]}
              - action: Ignore
                onPodConditions: [{type: DisruptionTarget}]
              - action: FailJob
                onExitCodes: {containerName: main, operator: NotIn, values: [75]}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 300
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: ${ACCELERATOR:-tpu-v5-lite-podslice}
                cloud.google.com/gke-tpu-topology: ${TOPOLOGY:-4x4}
              containers:
                - name: main
                  image: ${IMAGE}
                  command: ["python", "-m", "date_jax.main"${arguments}]
                  env:
                    - {name: DATE_JAX_CACHE, value: /runs/cache}
                    - {name: JAX_PLATFORMS, value: tpu}
                  resources:
                    limits: {google.com/tpu: ${CHIPS:-4}}
                  volumeMounts:
                    - {name: runs, mountPath: /runs}
              volumes:
                - name: runs
                  persistentVolumeClaim: {claimName: ${CLAIM:-date-jax-runs}}
YAML
}
if [ -n "$dry" ]; then manifest; exit; fi
manifest | kubectl apply -f -
