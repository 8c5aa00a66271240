{{- define "zoetrope.name" -}}
{{- if contains "zoetrope" .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- else -}}{{ printf "%s-zoetrope" .Release.Name | trunc 40 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- /* A name that the edge is called by and does not know is refused: that of the ingress is one. */ -}}
{{- define "zoetrope.publicUrl" -}}
{{- if .Values.service.publicUrl -}}
{{ .Values.service.publicUrl }}
{{- else if .Values.ingress.enabled -}}
{{ ternary "https" "http" (not (empty .Values.ingress.tlsSecret)) }}://{{ .Values.ingress.host }}
{{- end -}}
{{- end -}}

{{- define "zoetrope.labels" -}}
app.kubernetes.io/name: zoetrope
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "zoetrope.selector" -}}
app.kubernetes.io/name: zoetrope
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "zoetrope.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "zoetrope.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
automountServiceAccountToken: false
{{- with .Values.resultsStore.serviceAccount }}
serviceAccountName: {{ . }}
{{- end }}
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* What edge and workers are told of the object store. */ -}}
{{- define "zoetrope.resultsStore" -}}
{{- with .Values.resultsStore }}
{{- if .url }}
- {name: ZOETROPE_RESULTS_STORE, value: {{ .url | quote }}}
{{- with .endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- if .secret }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $key }}
  valueFrom: {secretKeyRef: {name: {{ $.Values.resultsStore.secret }}, key: {{ $key }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "zoetrope.rayLabels" -}}
{{ include "zoetrope.labels" . }}
app.kubernetes.io/component: ray
{{- end -}}

{{- /* What every container of the Ray cluster has: workers start in it, and so does what starts them. */ -}}
{{- define "zoetrope.rayContainer" -}}
{{- $name := include "zoetrope.name" .root -}}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
env:
  - {name: HOME, value: /tmp}
  - {name: RAY_memory_monitor_refresh_ms, value: "0"}
  - {name: RAY_worker_niceness, value: "0"}
  - {name: ZOETROPE_CONFIG, value: /etc/zoetrope/zoetrope.toml}
  - {name: ZOETROPE_HOME, value: /data}
  - {name: ZOETROPE_BACK, value: "tcp://{{ $name }}-broker:7002"}
  - {name: ZOETROPE_DEPOT, value: "http://{{ $name }}:{{ .root.Values.service.port }}"}
  - {name: ZOETROPE_CURVE_DIR, value: /etc/zoetrope-curve}
  - {name: ZOETROPE_LOG_FORMAT, value: json}
  {{- include "zoetrope.resultsStore" .root | indent 2 }}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
  - {name: config, mountPath: /etc/zoetrope, readOnly: true}
  - {name: curve, mountPath: /etc/zoetrope-curve, readOnly: true}
  {{- if .pool.modelsClaim }}
  - {name: models, mountPath: /models, readOnly: true}
  {{- end }}
{{- end -}}

{{- define "zoetrope.rayVolumes" -}}
- {name: data, emptyDir: {}}
- {name: tmp, emptyDir: {}}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ .pool.sharedMemory | default "2Gi" }}}}
- {name: config, configMap: {name: {{ include "zoetrope.name" .root }}}}
- name: curve
  secret:
    secretName: {{ .root.Values.curve.secret }}
    defaultMode: 0440
    items: [{key: worker.key, path: worker.key}]
{{- with .pool.modelsClaim }}
- {name: models, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
{{- end }}
{{- end -}}

{{/* Models of pools that scale down to no worker, separated by commas. */}}
{{- define "zoetrope.onDemand" -}}
{{- $models := list }}
{{- range .Values.pools }}
{{- if and .autoscaling .autoscaling.enabled (eq (int .autoscaling.min) 0) .autoscaling.model }}
{{- $models = append $models .autoscaling.model }}
{{- end }}
{{- end }}
{{- if .Values.ray.enabled }}
{{- range .Values.ray.pools }}
{{- if and (eq (int .min) 0) .model }}
{{- $models = append $models (base .model) }}
{{- end }}
{{- end }}
{{- end }}
{{- join "," ($models | uniq) }}
{{- end }}

{{- /* Pod of a worker, as metadata and spec. `part`: leader or rank of one over several pods, "" of one that has a pod for itself. */ -}}
{{- define "zoetrope.workerPod" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $name := include "zoetrope.name" $root -}}
{{- $grace := $pool.stopGraceSeconds | default 60 -}}
metadata:
  labels:
    {{- include "zoetrope.labels" $root | nindent 4 }}
    app.kubernetes.io/component: worker
    zoetrope/pool: {{ $pool.name }}
  annotations:
    checksum/config: {{ $root.Values.config | sha256sum }}
spec:
  {{- include "zoetrope.pod" $root | nindent 2 }}
  terminationGracePeriodSeconds: {{ add $grace 15 }}
  {{- with $pool.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pool.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: worker
      image: {{ $root.Values.image.worker }}
      {{- include "zoetrope.container" $root | nindent 6 }}
      command: [python, -m, {{ ternary "workers.rank" "workers" (eq .part "rank") }}]
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - {name: ZOETROPE_NAME_PREFIX, value: auto}
        - {name: ZOETROPE_CONFIG, value: /etc/zoetrope/zoetrope.toml}
        - {name: ZOETROPE_HOME, value: /data}
        - {name: ZOETROPE_BACK, value: "tcp://{{ $name }}-broker:7002"}
        - {name: ZOETROPE_DEPOT, value: "http://{{ $name }}:{{ $root.Values.service.port }}"}
        - {name: ZOETROPE_CURVE_DIR, value: /etc/zoetrope-curve}
        {{- $each := int ($pool.gpusPerWorker | default (ternary $pool.gpus 1 (eq .part "leader"))) }}
        - {name: ZOETROPE_GPUS, value: {{ if not $pool.gpus }}cpu{{ else if and (gt $each 1) (ne .part "rank") }}auto/{{ $each }}{{ else }}auto{{ end }}}
        {{- if eq .part "leader" }}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        - {name: ZOETROPE_MACHINES, value: {{ $pool.machinesPerWorker | quote }}}
        - {name: ZOETROPE_RANK_ENDPOINT, value: "tcp://$(POD_IP):29400"}
        {{- else if eq .part "rank" }}
        - {name: ZOETROPE_LEADER, value: "tcp://$(LWS_LEADER_ADDRESS):29400"}
        {{- end }}
        {{- with $pool.model }}
        - {name: ZOETROPE_MODEL, value: {{ . | quote }}}
        {{- end }}
        - {name: ZOETROPE_STOP_GRACE_S, value: {{ $grace | quote }}}
        - {name: ZOETROPE_HEARTBEAT_FILE, value: /tmp/beat}
        - {name: ZOETROPE_LOG_FORMAT, value: json}
        {{- include "zoetrope.resultsStore" $root | indent 8 }}
        {{- with $pool.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      # Alive is one thing, a model in memory another: loading may take minutes, and no probe ends that.
      startupProbe: {exec: {command: [python, -m, workers, healthy]}, periodSeconds: 5, timeoutSeconds: 10, failureThreshold: 60}
      livenessProbe: {exec: {command: [python, -m, workers, healthy]}, periodSeconds: 15, timeoutSeconds: 10, failureThreshold: 3}
      readinessProbe: {exec: {command: [python, -m, workers, healthy, --ready]}, periodSeconds: 10, timeoutSeconds: 10}
      resources:
        requests: {{- toYaml ($pool.resources).requests | nindent 10 }}
        limits:
          {{- with ($pool.resources).limits }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
          {{- if $pool.gpus }}
          nvidia.com/gpu: {{ $pool.gpus | quote }}
          {{- end }}
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        - {name: config, mountPath: /etc/zoetrope, readOnly: true}
        - {name: curve, mountPath: /etc/zoetrope-curve, readOnly: true}
        {{- if $pool.modelsClaim }}
        - {name: models, mountPath: /models, readOnly: true}
        {{- end }}
  volumes:
    - {name: data, emptyDir: {}}
    - {name: tmp, emptyDir: {}}
    - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ $pool.sharedMemory | default "2Gi" }}}}
    - {name: config, configMap: {name: {{ $name }}}}
    - name: curve
      secret:
        secretName: {{ $root.Values.curve.secret }}
        defaultMode: 0440
        items: [{key: worker.key, path: worker.key}]
    {{- with $pool.modelsClaim }}
    - {name: models, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
    {{- end }}
{{- end -}}
